"""A model: loaded once, it turns recordings into transcripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from granite_gguf.architecture import lane_maker, own_gpu
from granite_gguf.architectures import architecture_of, open_model_file
from granite_gguf.arrays import Samples
from granite_gguf.closing import Closing
from granite_gguf.demo import DEMO_MODEL, demo_name
from granite_gguf.errors import AudioError, DeviceError, InputError
from granite_gguf.ggml import (
    DeviceInfo,
    Observed,
    ProductShape,
    Runtime,
    Turns,
    observe_inputs,
    observe_products,
)
from granite_gguf.hub import find_model
from granite_gguf.passes import Cache, Options, Stop
from granite_gguf.placing.kernel_choice import AUTO, Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.sound.reading import ALL, Selection
from granite_gguf.sound.sndfile import RawFormat
from granite_gguf.sound.source import AudioInput, Source
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer, load_tokenizer
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription.jobs import Job, Jobs
from granite_gguf.transcription.many import Event, transcribe_each
from granite_gguf.transcription.options import TranscribeOptions, divide
from granite_gguf.transcription.recordings import check_options, transcribe_source
from granite_gguf.transcription.scheduler import MOST_TURNS, Scheduler, turns_for

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_JOBS = 256
"""Recordings that a model has at work at a time, by default."""


class Model(Closing):
    """A Granite Speech model, ready to transcribe.

    Use as a context manager, or call :meth:`close`. Safe to call from several threads: their
    recordings take turns, and never use more CPU threads than one does. The stages of a pass are
    in :attr:`stages`, and can be called on the model itself, too. In a forked child it has threads
    of its own, and its parent's weights. A copy, and what is unpickled elsewhere, is loaded anew.

    Args:
        file: an opened model file.
        threads: CPU threads; by default as many as the process may run on.
        device: ``auto``, ``cpu`` or a device's name.
        precision: ``exact`` or ``fast``, see :class:`granite_gguf.placing.kernel_choice.Precision`.
        low_memory: whether mapped weights are let go of after every stage.
        kernels: which may multiply, see :class:`granite_gguf.placing.kernel_choice.Kernels`.
        cache: ``f16`` or ``f32``, of the keys and values of an autoregressive model.
        max_jobs: recordings that may be at work at a time.

    Attributes:
        rounding: ``precision`` and ``cache``.

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
        cache: str = Cache.F16,
        max_jobs: int = MAX_JOBS,
    ) -> None:
        if max_jobs < 1:
            raise InputError(f"max_jobs is {max_jobs}, expected at least 1")
        wanted, kept = Precision.of(precision), Cache.of(cache)
        self.rounding = {"precision": str(wanted), "cache": str(kept)}
        self._asked = {
            "threads": threads,
            "device": device,
            "low_memory": low_memory,
            "kernels": kernels,
            "max_jobs": max_jobs,
            **self.rounding,
        }
        self._file, self._tokenizer = file, load_tokenizer(file)
        architecture, turns = architecture_of(file), Turns(MOST_TURNS)
        self._closed = False
        with ExitStack() as unfinished:
            self._gpu = own_gpu(file, architecture, device, kernels)
            if self._gpu is not None:
                unfinished.callback(self._gpu.close)
                device = "cpu"  # of single stages
            self._runtime = Runtime(device, threads, turns.all)
            unfinished.callback(self._runtime.close)
            self._weights = ModelWeights(
                file,
                self._runtime,
                wanted,
                architecture.derived,
                low_memory=low_memory,
                kernels=kernels,
            )
            unfinished.callback(self._weights.close)
            make = partial(
                architecture.lane,
                file,
                self._tokenizer,
                self._weights,
                precision=wanted,
                cache=kept,
                gpu=self._gpu,
            )
            self._lanes = [make(self._runtime)]
            self._stack = unfinished.pop_all()
        turns_there = turns_for(self.threads, self._gpu is not None or self._runtime.apart)
        # Not a method: it would hold the model, whose memory is free as soon as nobody holds it.
        new_lane = lane_maker(make, self._lanes, self._stack, turns, device, turns_there.threads)
        self._scheduler = Scheduler(self._lanes[0], turns_there, new_lane)
        self._jobs = Jobs(self._scheduler, max_jobs)

    @property
    def file(self) -> ModelFile[Any]:
        """The model's file."""
        return self._file

    @property
    def hparams(self) -> Any:
        """The model's hyper-parameters; of which kind, its architecture tells."""
        return self._file.hparams

    @property
    def tokenizer(self) -> SpeechTokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def threads(self) -> int:
        """CPU threads in use."""
        return self._runtime.threads

    @property
    def passes(self) -> dict[int, int]:
        """How many passes were computed so far, by how many pieces went through each together."""
        return dict(self._scheduler.passes)

    @property
    def stages(self) -> Any:
        """The stages of a pass, one by one: each takes and gives numpy arrays. Of which kind they
        are, the architecture tells, such as :class:`granite_gguf.nar.stages.Stages`.
        """
        return self._lanes[0].stages

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(self.stages, name)

    @property
    def device(self) -> DeviceInfo:
        """The device that computes."""
        return self._runtime.device if self._gpu is None else self._gpu.info

    @property
    def kernels(self) -> dict[str, dict[str, int]]:
        """How many matrices each kernel multiplies with, by stage: ``{"encoder": {"F16": 99}}``."""
        found, ours = self._weights.kernels.items(), self._gpu is not None
        return {s.value: {"F16 by cuda": of.total()} if ours else dict(of) for s, of in found}

    def close(self) -> None:
        """Give all memory back. Calling it again does nothing."""
        self._closed = True
        self._scheduler.close()
        with self._runtime.lock:
            for lane in self._lanes:
                lane.close()
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
        take = Selection(channel, track, raw)
        rate = self._scheduler.limits.sample_rate
        return Source.of(source, sample_rate=sample_rate, take=take).load(rate)

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
        # A demonstration model lies elsewhere where the package is installed elsewhere.
        beside = self.file.container.beside
        more = {} if beside is None else {"mmproj": beside.path.absolute()}
        return _reload, (demo_name(path) or path, {**self._asked, **more})

    # The whole pipeline

    def transcribe(self, source: AudioInput, **options: Unpack[TranscribeOptions]) -> Transcript:
        """Transcribe a recording.

        Args:
            source: a file's path, a file object opened for bytes, a file's contents as bytes;
                samples ``(n,)`` or ``(n, channels)`` as an array, a list or a tensor on the CPU:
                floats in [-1, 1], or int16 or int32; or a dict with ``array`` and
                ``sampling_rate``, as the library `datasets` has it.
            options: see :class:`granite_gguf.TranscribeOptions`.

        Returns:
            The transcript. Audio shorter than one frame of 20 ms has an empty one.

        Raises:
            AudioError: the audio cannot be read.
            InputError: an option is out of range or does not belong to this kind of source or
                model; as InputTypeError, there is no such option, or the source is of another
                kind.

        >>> transcript = model.transcribe(samples, sample_rate=16000, word_times=True)
        >>> transcript.duration
        3.0
        >>> " ".join(word.text for word in transcript.words) == transcript.text.strip()
        True
        """
        return Transcript.of(self.transcribe_stream(source, **options))

    def transcribe_stream(
        self, source: AudioInput, **options: Unpack[TranscribeOptions]
    ) -> Iterator[Segment]:
        """Transcribe a recording of any length and yield each segment when it is finished.

        Arguments and errors are those of :meth:`transcribe`. Files are decoded as the work goes
        on, so that hours of audio take no more memory than minutes. Nothing is computed ahead of
        what is asked for.

        >>> parts = model.transcribe_stream(samples, chunk_seconds=5)
        >>> [(part.start, part.end) for part in parts]
        [(0.0, 3.0)]
        """
        wanted = divide({**options})
        recording = Source.of(source, sample_rate=wanted.sample_rate, take=wanted.take)
        yield from transcribe_source(self._scheduler, recording, wanted.options, Stop())

    def transcribe_many(
        self, sources: Iterable[AudioInput], **options: Unpack[TranscribeOptions]
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
        wanted = divide({**options})
        self.check(wanted.options)
        for event in self.transcribe_events(
            sources, wanted.options, sample_rate=wanted.sample_rate, take=wanted.take
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
            self._scheduler, self._jobs, sources, options, sample_rate=sample_rate, take=take
        )

    def submit(
        self,
        source: AudioInput,
        *,
        deadline: float | None = None,
        wait: bool = True,
        **options: Unpack[TranscribeOptions],
    ) -> Job:
        """Hand over a recording, which is transcribed beside what else is at work.

        Short recordings that wait at the same time share a pass; results are those of
        :meth:`transcribe`.

        Args:
            source: as for :meth:`transcribe`.
            deadline: seconds from now, after which it is given up.
            wait: whether to wait where ``max_jobs`` recordings are at work.
            options: as for :meth:`transcribe`.

        Returns:
            A handle: its segments as they are finished, its transcript, and a way to cancel it.

        Raises:
            BusyError: ``max_jobs`` recordings are at work, and it does not wait.
            InputError: an option is out of range, or the source is of another kind.

        >>> job = model.submit(samples, deadline=60)
        >>> job.result().duration
        3.0
        """
        wanted = divide({**options})
        self.check(wanted.options)
        recording = Source.of(source, sample_rate=wanted.sample_rate, take=wanted.take)
        return self._jobs.submit(recording, wanted.options, deadline=deadline, wait=wait)

    def check(self, options: Options) -> None:
        """Refuse what the model cannot do.

        Raises:
            InputError: it is asked for.
        """
        check_options(self._scheduler, options)

    @contextmanager
    def observe_inputs(self) -> Iterator[Observed]:
        """Sum the squared inputs of every matrix while the block runs, and nothing else does.

        Yields a mapping that fills: by weight, sums ``(width,)`` and the number of rows summed.
        Our kernels on a GPU are not observed.
        """
        with self._observed(observe_inputs) as observed:
            yield observed

    @contextmanager
    def observe_products(self) -> Iterator[Counter[ProductShape]]:
        """Count the matrix products that run inside the block, in which nothing else does.

        Yields a counter that fills, by shape and type. Our kernels on a GPU are not observed.
        """
        with self._observed(observe_products) as counted:
            yield counted

    @contextmanager
    def _observed(self, observe: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
        if self._gpu is not None:
            raise InputError(
                f"{self.device.name} is not observed: load the model with device='cpu'"
            )
        with self._scheduler.alone(), observe(self._runtime, self._file.specs) as found:
            yield found


def _local(path: str | PathLike[str]) -> Path:
    return find_model(path) if isinstance(path, str) else Path(path)


def _reload(path: str | Path, options: dict[str, Any]) -> Model:
    return load(path, **options)


def load(
    path: str | PathLike[str] | None = None,
    *,
    mmproj: str | PathLike[str] | None = None,
    threads: int | None = None,
    device: str = "auto",
    precision: str = Precision.EXACT,
    low_memory: bool = False,
    kernels: str = AUTO,
    cache: str = Cache.F16,
    max_jobs: int = MAX_JOBS,
) -> Model:
    """Load a model from a GGUF file.

    Args:
        path: a GGUF file of the model, in either dialect; or, as a string, a model of the Hugging
            Face Hub, such as ``owner/name:Q4_K`` or ``auto``, which is downloaded into the Hub's
            cache the first time. :func:`granite_gguf.hub.find_model` tells the forms, and reports
            progress. Without one, the demonstration model of this package, which knows a few
            hundred English words; ``demo:base`` is the one that writes token by token.
        mmproj: the file with encoder and projector, where the model is the language model of a
            pair for llama.cpp; in the same forms. By default the ``mmproj-*.gguf`` beside it.
        threads: CPU threads; by default as many as the process may run on.
        device: ``cuda`` or ``cuda:N``, an NVIDIA GPU by our kernels (a NAR model, and the extra
            ``cuda``); one of ggml's by its name; ``cpu``; or ``auto``, the first that there is.
        precision: ``exact`` multiplies with the file's own types; ``fast`` may round further where
            the processor has a faster kernel, and takes a sure draft of a plain transcription
            without a look from the language model.
        low_memory: give the pages of a mapped file back to the system after every stage, so that
            only one stage's weights are resident; a pass takes a little longer.
        kernels: ``auto`` takes the best of our kernels that the processor has, ``ggml`` none of
            them; a name, as ``granite-gguf doctor`` lists them, takes that one and, for what it
            does not multiply, those after it. On another machine the name may be unknown.
        cache: what an autoregressive model keeps its keys and values as, ``f16`` or ``f32``.
        max_jobs: recordings that may be at work at a time, see :meth:`Model.submit`.

    Raises:
        ModelFileError: the file cannot be read or run.
        HubError: the model cannot be fetched from the Hub.
        DeviceError: no such device, or no room on it.
        InputError: ``threads`` or ``precision`` is out of range, or there are no such kernels.
    """
    return Model(
        open_model_file(
            _local(DEMO_MODEL if path is None else path),
            None if mmproj is None else _local(mmproj),
        ),
        threads=threads,
        device=device,
        precision=precision,
        low_memory=low_memory,
        kernels=kernels,
        cache=cache,
        max_jobs=max_jobs,
    )
