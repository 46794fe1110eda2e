"""The pipeline: audio → features → encoder → hypothesis → projector → editor → text."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from granite_gguf import audio, decoding, features, pipeline
from granite_gguf.errors import AudioError, InputError
from granite_gguf.finite import check_results
from granite_gguf.ggml import (
    DeviceInfo,
    Graph,
    Observed,
    ProductShape,
    Runtime,
    observe_inputs,
    observe_products,
)
from granite_gguf.gguf_file import ModelFile, open_model_file
from granite_gguf.graph.editor import build_editor
from granite_gguf.graph.encoder import build_encoder
from granite_gguf.graph.hypothesis import build_hypothesis
from granite_gguf.graph.projector import build_projector
from granite_gguf.hparams import HParams
from granite_gguf.kernels import Precision
from granite_gguf.stage_results import (
    EncoderResult,
    FloatArray,
    IntArray,
    TokenResult,
    check_rows,
    rows,
    token_result,
)
from granite_gguf.tokenizer import SpeechTokenizer, load_tokenizer
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.weights import ModelWeights

AudioInput = str | PathLike[str] | BinaryIO | npt.NDArray[Any]

NO_TAPS: frozenset[str] = frozenset()


class Model:
    """A Granite Speech NAR model, ready to transcribe.

    Use as a context manager, or call :meth:`close`. Safe to call from several threads: the calls
    take turns.

    Args:
        file: an opened model file.
        threads: CPU threads; by default as many as the process may run on.
        device: ``auto``, ``cpu`` or a device's name.
        precision: ``exact`` or ``fast``, see :class:`granite_gguf.kernels.Precision`.

    Raises:
        ModelFileError: the tokenizer cannot be read.
        DeviceError: no such device, or no room on it.
        InputError: ``threads`` or ``precision`` is out of range.
    """

    def __init__(
        self,
        file: ModelFile,
        *,
        threads: int | None = None,
        device: str = "auto",
        precision: str = Precision.EXACT,
    ) -> None:
        try:
            wanted = Precision(precision)
        except ValueError:
            choices = " or ".join(repr(str(choice)) for choice in Precision)
            raise InputError(f"precision is {precision!r}, expected {choices}") from None
        self._file = file
        self._lock = threading.RLock()
        self._stack = ExitStack()
        self._tokenizer: SpeechTokenizer = load_tokenizer(file)
        self._filters = file.read("audio.mel_filters")
        try:
            self._runtime = Runtime(device, threads)
            self._stack.callback(self._runtime.close)
            self._weights = ModelWeights(file, self._runtime, wanted)
            self._stack.callback(self._weights.close)
        except BaseException:
            self._stack.close()
            raise

    @property
    def file(self) -> ModelFile:
        """The model's file."""
        return self._file

    @property
    def hparams(self) -> HParams:
        """The model's hyper-parameters."""
        return self._file.hparams

    @property
    def device(self) -> DeviceInfo:
        """The device that computes."""
        return self._runtime.device

    @property
    def kernels(self) -> dict[str, dict[str, int]]:
        """How many matrices each kernel multiplies with, by stage: ``{"encoder": {"F16": 99}}``."""
        return {stage.value: dict(found) for stage, found in self._weights.kernels.items()}

    @property
    def threads(self) -> int:
        """CPU threads in use."""
        return self._runtime.threads

    @property
    def tokenizer(self) -> SpeechTokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def close(self) -> None:
        """Give all memory back. Calling it again does nothing."""
        with self._lock:
            self._stack.close()
            self._closed = True

    _closed = False

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # The whole pipeline

    def transcribe(
        self,
        source: AudioInput,
        *,
        sample_rate: float | None = None,
        channel: int | None = None,
        chunk_seconds: float | None = None,
        word_times: bool = False,
    ) -> Transcript:
        """Transcribe a recording.

        Args:
            source: an audio file, a file object opened for bytes, or samples ``(n,)`` or
                ``(n, channels)``.
            sample_rate: the rate of samples given as an array, in Hz; the model's by default.
            channel: the channel to take, 1 the first; by default the mean of all.
            chunk_seconds: the longest stretch of audio for one pass, from 5 to the 408 that the
                released model can take. By default a recording that fits in one pass is one, and
                longer ones are cut at pauses into stretches of at most 60 s.
            word_times: whether to time the words and tell their probabilities.

        Returns:
            The transcript. Audio shorter than one frame of 20 ms has an empty one.

        Raises:
            AudioError: the audio cannot be read.
            InputError: an option is out of range or does not belong to this kind of source.

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
        chunk_seconds: float | None = None,
        word_times: bool = False,
    ) -> Iterator[Segment]:
        """Transcribe a recording of any length and yield each segment when it is finished.

        Arguments and errors are those of :meth:`transcribe`. Files are decoded as the work goes
        on, so that hours of audio take no more memory than minutes.

        >>> parts = model.transcribe_stream(samples, chunk_seconds=5)
        >>> [(part.start, part.end) for part in parts]
        [(0.0, 3.0)]
        """
        options = pipeline.Options(chunk_seconds, word_times)
        pipeline.check_options(self.hparams, options)
        wanted = self.hparams.front_end.sample_rate
        if isinstance(source, np.ndarray):
            samples = self.load_audio(source, sample_rate=sample_rate, channel=channel)
            yield from pipeline.transcribe_blocks(self, iter([samples]), options)
            return
        if sample_rate is not None:
            raise InputError("sample_rate belongs to samples; a file has its own")
        with audio.open_audio(source, wanted, channel=channel) as stream:
            yield from pipeline.transcribe_blocks(self, stream.blocks, options)

    # Single stages

    def load_audio(
        self,
        source: AudioInput,
        *,
        sample_rate: float | None = None,
        channel: int | None = None,
    ) -> FloatArray:
        """Mono float32 samples ``(n,)`` at the model's rate.

        Raises:
            AudioError: the file or the array cannot be used.
            InputError: a sample rate was given for a file.
        """
        wanted = self.hparams.front_end.sample_rate
        if isinstance(source, np.ndarray):
            return audio.prepare_audio(
                source, wanted if sample_rate is None else sample_rate, wanted, channel=channel
            )
        if sample_rate is not None:
            raise InputError("sample_rate belongs to samples; a file has its own")
        return audio.read_audio(source, wanted, channel=channel)

    def compute_mel(self, samples: FloatArray) -> FloatArray:
        """Log-mel frames ``(T, 160)``, float32, of mono samples ``(n,)`` at the model's rate."""
        if samples.ndim != 1:
            raise InputError(f"samples have the shape {samples.shape}, expected (n,)")
        with np.errstate(all="ignore"):
            mel = features.log_mel(self.hparams.front_end, self._filters, samples)
        if not np.isfinite(mel).all():
            raise AudioError(
                f"samples reach {np.abs(samples).max():g}, whose spectrum is not finite; expected "
                "numbers in [-1, 1]"
            )
        return mel

    def run_encoder(self, mel: FloatArray, taps: frozenset[str] = NO_TAPS) -> EncoderResult:
        """Encode log-mel frames ``(T, 160)``, T at least 1.

        ``taps`` may name ``encoder_layer_K`` for each captured K and ``encoder_logits``.
        """
        e = self.hparams.encoder
        check_rows("mel", mel, e.input_dim)
        out = self._run(
            taps,
            lambda graph: build_encoder(graph, self._weights, e, len(mel)),
            {"mel": mel},
        )
        check_results(self._file, "encoder", *out.values())
        return EncoderResult(
            captured=rows(out.pop("captured")),
            final=rows(out.pop("final")),
            blank=rows(out.pop("blank"))[:, 0],
            taps={name: rows(array) for name, array in out.items()},
        )

    def run_hypothesis_head(
        self, final: FloatArray, blank: FloatArray, taps: frozenset[str] = NO_TAPS
    ) -> TokenResult:
        """Best BPE ids, one per window of pooled frames, blanks and repetitions included.

        Args:
            final: ``(T, D)``, T at least 1.
            blank: ``(T,)``.
            taps: may name ``pooled`` and ``bpe_logits``.
        """
        e, h = self.hparams.encoder, self.hparams.hypothesis
        check_rows("final", final, e.d_model)
        if blank.shape != (len(final),):
            raise InputError(f"blank has the shape {blank.shape}, expected ({len(final)},)")
        out = self._run(
            taps,
            lambda graph: build_hypothesis(graph, self._weights, h, e.d_model, len(final)),
            {"final": final, "blank": blank},
        )
        check_results(self._file, "first hypothesis", out.pop("sums"))
        return token_result(out)

    def run_hypothesis(self, final: FloatArray, blank: FloatArray) -> IntArray:
        """Token ids ``(n,)`` of the first hypothesis, from the encoder's results.

        Where the model was so trained, they are the tokens of its text stripped and lower-cased.
        """
        ids = self.run_hypothesis_head(final, blank).ids
        tokens = decoding.hypothesis_tokens(self.hparams.hypothesis, ids)
        if self.hparams.hypothesis.retokenize:
            return self._tokenizer.normalise_hypothesis(tokens)
        return tokens

    def run_projector_windows(self, captured: FloatArray) -> FloatArray:
        """Everything the projector makes of ``(T, captures * D)``: ``(3 * ceil(T / 15), 2048)``."""
        p = self.hparams.projector
        check_rows("captured", captured, p.num_encoder_layers * p.encoder_dim)
        out = self._run(
            NO_TAPS,
            lambda graph: build_projector(graph, self._weights, p, len(captured)),
            {"captured": captured},
        )
        check_results(self._file, "projector", *out.values())
        return rows(out["projected"])

    def scale_audio_tokens(self, projected: FloatArray, frames: int) -> FloatArray:
        """The audio tokens ``(T // 5, 2048)`` of the projector's windows, for ``frames`` T.

        Only tokens whose five frames exist are kept; they are divided by the embedding multiplier
        where the model says so, which the editor's multiplication undoes.
        """
        p, e = self.hparams.projector, self.hparams.editor
        tokens = projected[: frames // p.downsample_rate]
        return tokens / np.float32(e.embedding_multiplier) if p.scale_embeddings else tokens

    def run_projector(self, captured: FloatArray) -> FloatArray:
        """Audio tokens ``(T // 5, 2048)`` of captured states ``(T, captures * D)``, T at least 1,
        cut and scaled as :meth:`scale_audio_tokens` does it.
        """
        return self.scale_audio_tokens(self.run_projector_windows(captured), len(captured))

    def run_editor(
        self,
        audio_tokens: FloatArray,
        text_ids: npt.NDArray[np.integer],
        taps: frozenset[str] = NO_TAPS,
    ) -> TokenResult:
        """Best ids ``(n,)`` for text ids ``(n,)`` with slots, given audio tokens ``(A, 2048)``.

        ``taps`` may name ``editing_logits`` ``(n, vocabulary)``, not divided by the logits scale.
        """
        e = self.hparams.editor
        if len(audio_tokens):
            check_rows("audio_tokens", audio_tokens, e.d_model)
        text_ids = np.asarray(text_ids, dtype=np.int64)
        if text_ids.ndim != 1 or not len(text_ids):
            raise InputError(f"text_ids have the shape {text_ids.shape}, expected (n,), n > 0")
        if text_ids.min() < 0 or text_ids.max() >= e.vocab_size:
            raise InputError(f"text_ids are not all below the vocabulary size {e.vocab_size}")
        text = self._file.read_rows("llm.token_embd.weight", text_ids)
        embedded = np.concatenate([audio_tokens.reshape(-1, e.d_model), text])
        out = self._run(
            taps,
            lambda graph: build_editor(graph, self._weights, e, len(audio_tokens), len(text_ids)),
            {"rows": embedded, "positions": np.arange(len(embedded), dtype=np.int32)},
        )
        check_results(self._file, "editor", out.pop("sums"))
        return token_result(out)

    def check_room(self, frames: int) -> None:
        """Raise OutOfMemoryError if ``frames`` frames cannot be edited, whatever is said."""
        e = self.hparams.editor
        tokens = frames // self.hparams.projector.downsample_rate
        with self._graph(NO_TAPS) as graph:
            build_editor(graph, self._weights, e, tokens, max(1, e.min_edit_length))
            self._runtime.check_room(graph)

    def tokenize(self, text: str) -> IntArray:
        """Token ids ``(n,)`` of a text, without BOS or EOS."""
        return self._tokenizer.encode(text)

    def detokenize(self, tokens: npt.NDArray[np.integer]) -> str:
        """The text of tokens; special ones are skipped."""
        return self._tokenizer.decode(tokens)

    @contextmanager
    def observe_inputs(self) -> Iterator[Observed]:
        """Sum the squared inputs of every matrix while the block runs.

        Yields:
            A mapping that fills: by weight, sums ``(width,)`` and the number of rows summed.
        """
        with self._lock, observe_inputs(self._runtime, self._file.specs) as observed:
            yield observed

    @contextmanager
    def observe_products(self) -> Iterator[Counter[ProductShape]]:
        """Count the matrix products that run inside the block.

        Yields:
            A counter that fills, by shape and type.
        """
        with self._lock, observe_products(self._runtime, self._file.specs) as counted:
            yield counted

    def _run(
        self,
        taps: frozenset[str],
        build: Callable[[Graph], None],
        inputs: Mapping[str, npt.NDArray[Any]],
    ) -> dict[str, npt.NDArray[Any]]:
        with self._graph(taps) as graph:
            build(graph)
            unknown = taps - graph.outputs.keys()
            if unknown:
                raise InputError(f"this stage has no output named {', '.join(sorted(unknown))}")
            return self._runtime.compute(graph, inputs)

    @contextmanager
    def _graph(self, taps: frozenset[str]) -> Iterator[Graph]:
        """A graph to build; other threads wait."""
        with self._lock:
            if self._closed:
                raise InputError("the model is closed")
            with Graph(taps) as graph:
                yield graph


def load(
    path: str | PathLike[str],
    *,
    threads: int | None = None,
    device: str = "auto",
    precision: str = Precision.EXACT,
) -> Model:
    """Load a model from a GGUF file.

    Args:
        path: a ``granite_nle`` GGUF file.
        threads: CPU threads; by default as many as the process may run on.
        device: ``auto`` (a GPU where this build of ggml has one), ``cpu`` or a device's name.
        precision: ``exact`` multiplies with the file's own types; ``fast`` may round further where
            the processor has a faster kernel.

    Raises:
        ModelFileError: the file cannot be read or run.
        DeviceError: no such device, or no room on it.
        InputError: ``threads`` or ``precision`` is out of range.
    """
    return Model(open_model_file(str(path)), threads=threads, device=device, precision=precision)
