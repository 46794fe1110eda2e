"""The stages of a model, one by one: each takes and gives numpy arrays."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import AudioError, InputError
from granite_gguf.ggml import (
    Graph,
    Observed,
    ProductShape,
    Reader,
    Runtime,
    observe_inputs,
    observe_products,
)
from granite_gguf.graph.editor import EditorRows, build_editor, build_editor_head
from granite_gguf.graph.encoder import build_encoder
from granite_gguf.graph.hypothesis import build_hypothesis
from granite_gguf.graph.projector import build_projector
from granite_gguf.nar import decoding
from granite_gguf.nar.results import (
    EncoderResult,
    FloatArray,
    IntArray,
    TokenResult,
    check_rows,
    divided,
    divided_tokens,
    joined,
    joined_tokens,
    rows,
)
from granite_gguf.placing.finite import check_results
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.sound import features, reading
from granite_gguf.spec.nar import HParams
from granite_gguf.spec.tensors import MEL_FILTERS, TOKEN_EMBEDDING, Stage
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer

AudioInput = str | PathLike[str] | BinaryIO | npt.NDArray[Any]

NO_TAPS: frozenset[str] = frozenset()

_PURPOSE = "This stretch of audio"
_SHORTER = "Transcribe it in shorter pieces (--chunk-seconds), or free some memory"
_LOGIT_ROWS = 160  # computed at once: 64 MB of the released model's 100,353 logits


class Stages:
    """What a model computes, on one runtime. Calls from several threads take turns.

    Args:
        file: the model's file.
        tokenizer: its tokenizer.
        weights: its weights, where the runtime's device reads them.
        runtime: computes.
    """

    def __init__(
        self,
        file: ModelFile[HParams],
        tokenizer: SpeechTokenizer,
        weights: ModelWeights,
        runtime: Runtime,
    ) -> None:
        self._file, self._tokenizer = file, tokenizer
        self._weights, self._runtime = weights, runtime
        self._filters = file.read(MEL_FILTERS)
        self._lock = threading.RLock()
        self._closed = False

    @property
    def file(self) -> ModelFile[HParams]:
        """The model's file."""
        return self._file

    @property
    def hparams(self) -> HParams:
        """The model's hyper-parameters."""
        return self._file.hparams

    @property
    def tokenizer(self) -> SpeechTokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def threads(self) -> int:
        """CPU threads in use."""
        return self._runtime.threads

    def close(self) -> None:
        """Wait for what is being computed, and compute nothing more."""
        with self._lock:
            self._closed = True

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
            return reading.prepare_audio(
                source, wanted if sample_rate is None else sample_rate, wanted, channel=channel
            )
        if sample_rate is not None:
            raise InputError("sample_rate belongs to samples; a file has its own")
        return reading.read_audio(source, wanted, channel=channel)

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
        (result,) = self.run_encoders([mel], taps)
        return result

    def run_encoders(
        self, mels: Sequence[FloatArray], taps: frozenset[str] = NO_TAPS
    ) -> list[EncoderResult]:
        """Encode recordings in one pass; each as :meth:`run_encoder` does it."""
        e = self.hparams.encoder
        for mel in mels:
            check_rows("mel", mel, e.input_dim)
        lengths = [len(mel) for mel in mels]
        out = self._run(
            taps,
            lambda graph: build_encoder(graph, self._weights, e, lengths),
            {"mel": joined(mels)},
        )
        self._weights.let_go(Stage.ENCODER)
        check_results(self._file, "encoder", *out.values())
        parts = {name: divided(rows(array), lengths) for name, array in out.items()}
        captured, final, blank = (parts.pop(name) for name in ("captured", "final", "blank"))
        return [
            EncoderResult(
                captured=captured[n],
                final=final[n],
                blank=blank[n][:, 0],
                taps={name: arrays[n] for name, arrays in parts.items()},
            )
            for n in range(len(mels))
        ]

    def run_hypothesis_head(
        self, final: FloatArray, blank: FloatArray, taps: frozenset[str] = NO_TAPS
    ) -> TokenResult:
        """Best BPE ids, one per window of pooled frames, blanks and repetitions included.

        Args:
            final: ``(T, D)``, T at least 1.
            blank: ``(T,)``.
            taps: may name ``pooled`` and ``bpe_logits``.
        """
        (result,) = self.run_hypothesis_heads([(final, blank)], taps)
        return result

    def run_hypothesis_heads(
        self, states: Sequence[tuple[FloatArray, FloatArray]], taps: frozenset[str] = NO_TAPS
    ) -> list[TokenResult]:
        """The heads of recordings in one pass; each as :meth:`run_hypothesis_head` does it."""
        window = self.hparams.hypothesis.pooling_window
        padded = [self._whole_windows(final, blank) for final, blank in states]
        result = self._run_hypothesis_head(
            joined([final for final, _ in padded]), joined([blank for _, blank in padded]), taps
        )
        return divided_tokens(result, [len(final) // window for final, _ in padded])

    def _whole_windows(self, final: FloatArray, blank: FloatArray) -> tuple[FloatArray, FloatArray]:
        """States with frames that weigh nothing, up to whole windows."""
        e, h = self.hparams.encoder, self.hparams.hypothesis
        check_rows("final", final, e.d_model)
        if blank.shape != (len(final),):
            raise InputError(f"blank has the shape {blank.shape}, expected ({len(final)},)")
        missing = -len(final) % h.pooling_window
        if not missing:
            return final, blank
        return (
            np.pad(final, ((0, missing), (0, 0))),
            np.pad(blank, (0, missing), constant_values=1.0),
        )

    def _run_hypothesis_head(
        self, final: FloatArray, blank: FloatArray, taps: frozenset[str]
    ) -> TokenResult:
        """The head on states of whole windows, as many rows at a time as logits may take."""
        e, h = self.hparams.encoder, self.hparams.hypothesis

        def head(part: slice) -> TokenResult:
            return self._run_head(
                taps,
                ("first hypothesis", "bpe_logits", h.bpe_vocab),
                lambda graph: build_hypothesis(
                    graph, self._weights, h, e.d_model, len(final[part])
                ),
                {"final": final[part], "blank": blank[part]},
            )

        windows = len(final) // h.pooling_window
        parts = [head(part) for part in _even_slices(windows, h.pooling_window)]
        self._weights.let_go(Stage.ENCODER)
        return joined_tokens(parts)

    def run_hypothesis(self, final: FloatArray, blank: FloatArray) -> IntArray:
        """Token ids ``(n,)`` of the first hypothesis, from the encoder's results.

        Where the model was so trained, they are the tokens of its text stripped and lower-cased.
        """
        (tokens,) = self.run_hypotheses([(final, blank)])
        return tokens

    def run_hypotheses(self, states: Sequence[tuple[FloatArray, FloatArray]]) -> list[IntArray]:
        """Token ids of recordings in one pass; each as :meth:`run_hypothesis` does it."""
        h = self.hparams.hypothesis
        heads = self.run_hypothesis_heads(states)
        tokens = [decoding.hypothesis_tokens(h, head.ids) for head in heads]
        if h.retokenize:
            return [self._tokenizer.normalise_hypothesis(ids) for ids in tokens]
        return tokens

    def run_projector_windows(self, captured: FloatArray) -> FloatArray:
        """Everything the projector makes of ``(T, captures * D)``: ``(3 * ceil(T / 15), 2048)``."""
        (projected,) = self._run_projector_windows([captured])
        return projected

    def _run_projector_windows(self, recordings: Sequence[FloatArray]) -> list[FloatArray]:
        p = self.hparams.projector
        for captured in recordings:
            check_rows("captured", captured, p.num_encoder_layers * p.encoder_dim)
        lengths = [len(captured) for captured in recordings]
        out = self._run(
            NO_TAPS,
            lambda graph: build_projector(graph, self._weights, p, lengths),
            {"captured": joined(recordings)},
        )
        self._weights.let_go(Stage.PROJECTOR)
        check_results(self._file, "projector", *out.values())
        counts = [-(-length // p.block_size) * p.n_queries for length in lengths]
        return divided(rows(out["projected"]), counts)

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
        (tokens,) = self.run_projectors([captured])
        return tokens

    def run_projectors(self, recordings: Sequence[FloatArray]) -> list[FloatArray]:
        """Audio tokens of recordings in one pass; each as :meth:`run_projector` does it."""
        return [
            self.scale_audio_tokens(projected, len(captured))
            for projected, captured in zip(
                self._run_projector_windows(recordings), recordings, strict=True
            )
        ]

    def run_editor(
        self,
        audio_tokens: FloatArray,
        text_ids: npt.NDArray[np.integer],
        taps: frozenset[str] = NO_TAPS,
    ) -> TokenResult:
        """Best ids ``(n,)`` for text ids ``(n,)`` with slots, given audio tokens ``(A, 2048)``.

        ``taps`` may name ``editing_logits`` ``(n, vocabulary)``, not divided by the logits scale.
        """
        (result,) = self.run_editors([(audio_tokens, text_ids)], taps)
        return result

    def run_editors(
        self,
        recordings: Sequence[tuple[FloatArray, npt.NDArray[np.integer]]],
        taps: frozenset[str] = NO_TAPS,
    ) -> list[TokenResult]:
        """Edit recordings in one pass; each as :meth:`run_editor` does it."""
        e = self.hparams.editor
        embedded, counts = [], []
        for audio_tokens, text_ids in recordings:
            text = self._embed(audio_tokens, np.asarray(text_ids, dtype=np.int64))
            embedded += [audio_tokens.reshape(-1, e.d_model), text]
            counts.append(EditorRows(len(audio_tokens), len(text)))
        positions = [np.arange(count.count, dtype=np.int32) for count in counts]
        out = self._run(
            NO_TAPS,
            lambda graph: build_editor(graph, self._weights, e, counts),
            {
                "rows": joined(embedded),
                "positions": joined(positions),
                "text_positions": joined(
                    [p[c.audio :] for p, c in zip(positions, counts, strict=True)]
                ),
            },
        )
        state = rows(out["state"])

        def head(part: slice) -> TokenResult:
            return self._run_head(
                taps,
                ("editor", "editing_logits", e.vocab_size),
                lambda graph: build_editor_head(graph, self._weights, e, len(state[part])),
                {"state": state[part]},
            )

        result = joined_tokens([head(part) for part in _even_slices(len(state))])
        self._weights.let_go(Stage.EDITOR)
        return divided_tokens(result, [count.text for count in counts])

    def _embed(self, audio_tokens: FloatArray, text_ids: IntArray) -> FloatArray:
        """The rows of text ids, after a look at what is to be edited."""
        e = self.hparams.editor
        if len(audio_tokens):
            check_rows("audio_tokens", audio_tokens, e.d_model)
        if text_ids.ndim != 1 or not len(text_ids):
            raise InputError(f"text_ids have the shape {text_ids.shape}, expected (n,), n > 0")
        if text_ids.min() < 0 or text_ids.max() >= e.vocab_size:
            raise InputError(f"text_ids are not all below the vocabulary size {e.vocab_size}")
        return self._weights.read_rows(TOKEN_EMBEDDING, text_ids)

    def check_room(self, frames: int) -> None:
        """Raise OutOfMemoryError if ``frames`` frames cannot be edited, whatever is said."""
        e = self.hparams.editor
        tokens = frames // self.hparams.projector.downsample_rate
        with self._graph(NO_TAPS) as graph:
            shortest = EditorRows(tokens, max(1, e.min_edit_length))
            build_editor(graph, self._weights, e, [shortest])
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

    def _run_head(
        self,
        taps: frozenset[str],
        names: tuple[str, str, int],
        build: Callable[[Graph], None],
        inputs: Mapping[str, npt.NDArray[Any]],
    ) -> TokenResult:
        """Best ids of a graph that outputs logits, ``names``: of the stage, of these, how many."""
        stage, name, vocabulary = names

        def read(logits: npt.NDArray[Any]) -> TokenResult:
            kept = rows(logits)[:, :vocabulary]
            with np.errstate(all="ignore"):
                check_results(self._file, stage, kept.sum(axis=1))
            return TokenResult(decoding.best_ids(kept), {name: kept.copy()} if name in taps else {})

        out = self._run(taps, build, inputs, {name: read})
        check_results(self._file, stage, out.pop("sums"))
        best: TokenResult = out.pop(name)
        return TokenResult(best.ids, {**{n: rows(array) for n, array in out.items()}, **best.taps})

    def _run(
        self,
        taps: frozenset[str],
        build: Callable[[Graph], None],
        inputs: Mapping[str, npt.NDArray[Any]],
        readers: Mapping[str, Reader] | None = None,
    ) -> dict[str, Any]:
        with self._graph(taps) as graph:
            build(graph)
            unknown = taps - graph.outputs.keys()
            if unknown:
                raise InputError(f"this stage has no output named {', '.join(sorted(unknown))}")
            return self._runtime.compute(graph, inputs, readers)

    @contextmanager
    def _graph(self, taps: frozenset[str]) -> Iterator[Graph]:
        """A graph to build; other threads wait."""
        with self._lock:
            if self._closed:
                raise InputError("the model is closed")
            with Graph(taps, purpose=_PURPOSE, remedy=_SHORTER) as graph:
                yield graph


def _even_slices(rows: int, step: int = 1) -> list[slice]:
    """Slices of about as many rows each, at most ``_LOGIT_ROWS``; a row is ``step`` inputs."""
    count = -(-rows // _LOGIT_ROWS)
    ends = [rows * n // count * step for n in range(count + 1)]
    return [slice(*ends_of) for ends_of in pairwise(ends)]
