"""A model: loaded once, it turns recordings into transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

from granite_gguf.architectures import architecture_of, open_model_file
from granite_gguf.arrays import Samples
from granite_gguf.closing import Closing
from granite_gguf.demo import DEMO_MODEL
from granite_gguf.errors import AudioError, DeviceError, InputError
from granite_gguf.ggml import DeviceInfo, Runtime
from granite_gguf.hub import find_model
from granite_gguf.nar.stages import Stages
from granite_gguf.passes import Options, Vad
from granite_gguf.placing.kernel_choice import AUTO, Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.sound.reading import ALL, Selection
from granite_gguf.sound.sndfile import RawFormat
from granite_gguf.sound.source import AudioInput, Source
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import load_tokenizer
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription import recordings
from granite_gguf.transcription.scheduler import MOST_LANES, Event, transcribe_each


class Model(Stages, Closing):
    """A Granite Speech NAR model, ready to transcribe.

    Use as a context manager, or call :meth:`close`. Safe to call from several threads: the calls
    take turns. In a forked child it computes with threads of its own, and shares the weights with
    its parent. A copy, and what is unpickled elsewhere, is loaded anew from the same file, with the
    same options.

    Args:
        file: an opened model file.
        threads: CPU threads; by default as many as the process may run on.
        device: ``auto``, ``cpu`` or a device's name.
        precision: ``exact`` or ``fast``, see :class:`granite_gguf.placing.kernel_choice.Precision`.
        low_memory: whether mapped weights are let go of after every stage.
        kernels: ``auto``, ``ggml`` or a name, see
            :class:`granite_gguf.placing.kernel_choice.Kernels`.

    Raises:
        ModelFileError: the tokenizer cannot be read.
        DeviceError: no such device, or no room on it.
        InputError: ``threads`` or ``precision`` is out of range, or there are no such kernels.
    """

    def __init__(
        self,
        file: ModelFile[Any],
        *,
        threads: int | None = None,
        device: str = "auto",
        precision: str = Precision.EXACT,
        low_memory: bool = False,
        kernels: str = AUTO,
    ) -> None:
        try:
            wanted = Precision(precision)
        except ValueError:
            choices = " or ".join(repr(str(choice)) for choice in Precision)
            raise InputError(f"precision is {precision!r}, expected {choices}") from None
        self._asked = {
            "threads": threads,
            "device": device,
            "precision": str(wanted),
            "low_memory": low_memory,
            "kernels": kernels,
        }
        self._stack = ExitStack()
        tokenizer = load_tokenizer(file)
        try:
            runtime = Runtime(device, threads)
            self._stack.callback(runtime.close)
            derived = architecture_of(file).derived
            weights = ModelWeights(
                file, runtime, wanted, derived, low_memory=low_memory, kernels=kernels
            )
            self._stack.callback(weights.close)
            super().__init__(file, tokenizer, weights, runtime)
        except BaseException:
            self._stack.close()
            raise
        self._lanes: list[Stages] = []

    @property
    def device(self) -> DeviceInfo:
        """The device that computes."""
        return self._runtime.device

    @property
    def kernels(self) -> dict[str, dict[str, int]]:
        """How many matrices each kernel multiplies with, by stage: ``{"encoder": {"F16": 99}}``."""
        return {stage.value: dict(found) for stage, found in self._weights.kernels.items()}

    def close(self) -> None:
        """Give all memory back. Calling it again does nothing."""
        with self._runtime.lock:
            for lane in self._lanes:
                lane.close()
            super().close()
            self._stack.close()

    def load_audio(
        self,
        source: AudioInput,
        *,
        sample_rate: float | None = None,
        channel: int | None = None,
        track: int | None = None,
        raw: RawFormat | None = None,
    ) -> Samples:
        """Mono float32 samples ``(n,)`` at the model's rate.

        Raises:
            AudioError: the file or the array cannot be used.
            InputError: a sample rate was given for a file.
        """
        wanted = self.hparams.front_end.sample_rate
        take = Selection(channel, track, raw)
        return Source.of(source, sample_rate=sample_rate, take=take).load(wanted)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as a file's name and options, from which :func:`load` makes it."""
        if self._closed:
            raise InputError("the model is closed and cannot be copied or pickled")
        path = self.file.path.absolute()
        if not path.is_file():
            raise InputError(
                f"{path}: is no file any more, and a model is copied or pickled as the name of its "
                "file: load the model where it is to be used"
            )
        # The demonstration model lies elsewhere where the package is installed elsewhere.
        return _reload, (None if path == DEMO_MODEL else path, self._asked)

    # The whole pipeline

    def transcribe(
        self,
        source: AudioInput,
        *,
        sample_rate: float | None = None,
        channel: int | None = None,
        track: int | None = None,
        raw: RawFormat | None = None,
        chunk_seconds: float | None = None,
        word_times: bool = False,
        vad: str = Vad.ENERGY,
    ) -> Transcript:
        """Transcribe a recording.

        Args:
            source: a file's path, a file object opened for bytes, a file's contents as bytes;
                samples ``(n,)`` or ``(n, channels)`` as an array, a list or a tensor on the CPU:
                floats in [-1, 1], or int16 or int32; or a dict with ``array`` and
                ``sampling_rate``, as the library `datasets` has it.
            sample_rate: the rate of samples given as an array, in Hz; the model's by default.
            channel: the channel to take, 1 the first; by default the mean of all, or the louder one
                where they cancel out, with an AudioWarning.
            track: the audio track of a container, 1 the first; by default the first.
            raw: how to read a file, a pipe or bytes without a header.
            chunk_seconds: the longest stretch of audio for one pass, from 5 to the 408 that the
                released model can take. By default a recording that fits in one pass is one, and
                longer ones are cut at pauses into pieces of at most 60 s.
            word_times: whether to time the words and tell their probabilities.
            vad: ``energy`` leaves out silence at both ends and in long pauses, by its level beside
                that of the recording; ``off`` leaves it in.

        Returns:
            The transcript. Audio shorter than one frame of 20 ms has an empty one.

        Raises:
            AudioError: the audio cannot be read.
            InputError: an option is out of range or does not belong to this kind of source; as
                InputTypeError, the source is of another kind.

        >>> transcript = model.transcribe(samples, sample_rate=16000, word_times=True)
        >>> transcript.duration
        3.0
        >>> " ".join(word.text for word in transcript.words) == transcript.text.strip()
        True
        """
        return Transcript.of(
            self.transcribe_stream(
                source,
                sample_rate=sample_rate,
                channel=channel,
                track=track,
                raw=raw,
                vad=vad,
                chunk_seconds=chunk_seconds,
                word_times=word_times,
            )
        )

    def transcribe_stream(
        self,
        source: AudioInput,
        *,
        sample_rate: float | None = None,
        channel: int | None = None,
        track: int | None = None,
        raw: RawFormat | None = None,
        chunk_seconds: float | None = None,
        word_times: bool = False,
        vad: str = Vad.ENERGY,
    ) -> Iterator[Segment]:
        """Transcribe a recording of any length and yield each segment when it is finished.

        Arguments and errors are those of :meth:`transcribe`. Files are decoded as the work goes
        on, so that hours of audio take no more memory than minutes.

        >>> parts = model.transcribe_stream(samples, chunk_seconds=5)
        >>> [(part.start, part.end) for part in parts]
        [(0.0, 3.0)]
        """
        options = Options(chunk_seconds, word_times, Vad.of(vad))
        take = Selection(channel, track, raw)
        yield from recordings.transcribe_source(
            self, Source.of(source, sample_rate=sample_rate, take=take), options
        )

    def transcribe_many(
        self,
        sources: Iterable[AudioInput],
        *,
        sample_rate: float | None = None,
        channel: int | None = None,
        track: int | None = None,
        raw: RawFormat | None = None,
        chunk_seconds: float | None = None,
        word_times: bool = False,
        vad: str = Vad.ENERGY,
    ) -> Iterator[Transcript | AudioError | DeviceError | MemoryError]:
        """Transcribe recordings, short ones side by side, which is faster than one by one.

        Arguments are those of :meth:`transcribe`, ``sample_rate`` that of all arrays. Sources are
        taken when their turn comes.

        Yields:
            In the order of the sources, a transcript, equal to what :meth:`transcribe` returns but
            for its timings; or the error of a recording that cannot be transcribed.

        Raises:
            InputError: an option is out of range.

        >>> [transcript.duration for transcript in model.transcribe_many([samples, samples[:8000]])]
        [3.0, 0.5]
        """
        options = Options(chunk_seconds, word_times, Vad.of(vad))
        recordings.check_options(self.hparams, options)
        for event in self.transcribe_events(
            sources, options, sample_rate=sample_rate, take=Selection(channel, track, raw)
        ):
            if not isinstance(event.result, Segment):
                yield event.result

    def transcribe_events(
        self,
        sources: Iterable[AudioInput],
        options: Options,
        *,
        sample_rate: float | None = None,
        take: Selection = ALL,
    ) -> Iterator[Event]:
        """What :meth:`transcribe_many` does, with each segment on the way."""
        return transcribe_each(
            self,
            self._side_by_side(),
            sources,
            options,
            sample_rate=sample_rate,
            take=take,
        )

    def _side_by_side(self) -> Sequence[Stages]:
        """What computes short recordings, each with its share of the threads."""
        with self._runtime.lock:
            if self._closed:
                raise InputError("the model is closed")
            count = min(self.threads, MOST_LANES) if self.device.kind == "cpu" else 1
            if count == 1:
                return [self]
            while len(self._lanes) < count:
                runtime = Runtime(self.device.name, self.threads // count)
                self._stack.callback(runtime.close)
                self._lanes.append(Stages(self._file, self._tokenizer, self._weights, runtime))
            return self._lanes


def _reload(path: Path | None, options: dict[str, Any]) -> Model:
    return load(path, **options)


def load(
    path: str | PathLike[str] | None = None,
    *,
    threads: int | None = None,
    device: str = "auto",
    precision: str = Precision.EXACT,
    low_memory: bool = False,
    kernels: str = AUTO,
) -> Model:
    """Load a model from a GGUF file.

    Args:
        path: a GGUF file of the model, in either dialect; or, as a string, a model of the Hugging
            Face Hub, such as ``owner/name:Q4_K`` or ``auto``, which is downloaded into the Hub's
            cache the first time. :func:`granite_gguf.hub.find_model` tells the forms, and reports
            progress. Without one, the demonstration model of this package, which knows a few
            hundred English words.
        threads: CPU threads; by default as many as the process may run on.
        device: ``auto`` (a GPU where this build of ggml has one), ``cpu`` or a device's name.
        precision: ``exact`` multiplies with the file's own types; ``fast`` may round further where
            the processor has a faster kernel.
        low_memory: give the pages of a mapped file back to the system after every stage, so that
            only one stage's weights are resident; a pass takes a little longer.
        kernels: ``auto`` takes the best of our kernels that the processor has, ``ggml`` none of
            them; a name, as ``granite-gguf doctor`` lists them, takes that one and, for what it
            does not multiply, those after it. On another machine the name may be unknown.

    Raises:
        ModelFileError: the file cannot be read or run.
        HubError: the model cannot be fetched from the Hub.
        DeviceError: no such device, or no room on it.
        InputError: ``threads`` or ``precision`` is out of range, or there are no such kernels.
    """
    if path is None:
        path = DEMO_MODEL
    file = find_model(path) if isinstance(path, str) else Path(path)
    return Model(
        open_model_file(file),
        threads=threads,
        device=device,
        precision=precision,
        low_memory=low_memory,
        kernels=kernels,
    )
