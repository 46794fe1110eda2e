"""The stages of a model, one by one: each takes and gives numpy arrays.

What takes rows takes them of one recording, as an array, or of several that go through the stage
together, as :class:`granite_gguf.arrays.Rows`, and answers in kind. Each recording of a batch gets
what it would get alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import (
    AnyArray,
    Batch,
    FloatArray,
    IntArray,
    Rows,
    as_rows,
    checked_rows,
    in_kind,
    matrix,
)
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
from granite_gguf.graph.hypothesis import HEAD, build_hypothesis
from granite_gguf.graph.projector import build_projector
from granite_gguf.nar import decoding
from granite_gguf.nar.results import EncoderResult, TokenResult
from granite_gguf.placing.finite import check_results
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.sound import features
from granite_gguf.spec.nar import HParams
from granite_gguf.spec.tensors import MEL_FILTERS, TOKEN_EMBEDDING, Stage
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer

NO_TAPS: frozenset[str] = frozenset()

BPE_TOTALS = "bpe_totals"
"""A tap of the BPE head: what its softmax divides by, as a logarithm."""

BEST_PROBABILITIES = "best_probabilities"
"""A tap of the editor: the probability of each best id."""

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
        with self._runtime.lock:
            self._closed = True

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

    def run_encoder(self, mel: Batch, taps: frozenset[str] = NO_TAPS) -> EncoderResult[Batch]:
        """Encode log-mel frames ``(T, 160)``, T at least 1.

        ``taps`` may name ``encoder_layer_K`` for each captured K and ``encoder_logits``.
        """
        e, frames = self.hparams.encoder, checked_rows("mel", mel, self.hparams.encoder.input_dim)
        out = self._run(
            taps,
            lambda graph: build_encoder(graph, self._weights, e, frames.counts),
            {"mel": frames.array},
        )
        self._weights.let_go(Stage.ENCODER)
        check_results(self._file, "encoder", *out.values())
        out = {name: matrix(array) for name, array in out.items()}
        out["blank"] = out["blank"][:, 0]
        found = {name: in_kind(mel, frames.like(array)) for name, array in out.items()}
        captured, final, blank = (found.pop(name) for name in ("captured", "final", "blank"))
        return EncoderResult(captured, final, blank, found)

    def run_hypothesis_head(
        self, final: Batch, blank: Batch, taps: frozenset[str] = NO_TAPS
    ) -> TokenResult[Batch]:
        """Best BPE ids, one per window of pooled frames, blanks and repetitions included.

        Args:
            final: ``(T, D)``, T at least 1.
            blank: ``(T,)``.
            taps: may name ``pooled``, ``bpe_logits``, and :data:`BPE_TOTALS`.
        """
        e, h = self.hparams.encoder, self.hparams.hypothesis
        states, silence = checked_rows("final", final, e.d_model), as_rows(blank)
        if silence.counts != states.counts or silence.array.ndim != 1:
            raise InputError(
                f"blank has the shape {silence.array.shape}, expected ({len(states.array)},)"
            )
        # What fills up a window is surely blank, and weighs nothing.
        window = h.pooling_window
        states = states.each(lambda part: _filled_up(part, window, 0.0))
        silence = silence.each(lambda part: _filled_up(part, window, 1.0))
        head = _Head(
            "first hypothesis",
            "bpe_logits",
            h.bpe_vocab,
            {BPE_TOTALS: decoding.log_totals},
            lambda graph, rows: build_hypothesis(graph, self._weights, window, e.d_model, rows),
        )
        found = self._run_head(head, taps, {"final": states.array, "blank": silence.array}, window)
        self._weights.let_go(Stage.ENCODER)
        counts = tuple(count // window for count in states.counts)
        return _token_result(final, counts, found)

    def read_hypothesis(self, ids: Batch) -> Batch:
        """Token ids ``(n,)`` of the first hypothesis, from the best ids of the BPE head.

        Where the model was so trained, they are the tokens of its text stripped and lower-cased.
        """
        h = self.hparams.hypothesis
        tokens = as_rows(ids).each(lambda part: decoding.hypothesis_tokens(h, part))
        return in_kind(
            ids, tokens.each(self._tokenizer.normalise_hypothesis) if h.retokenize else tokens
        )

    def run_hypothesis(self, final: Batch, blank: Batch) -> Batch:
        """Token ids ``(n,)`` of the first hypothesis, from the encoder's results."""
        return self.read_hypothesis(self.run_hypothesis_head(final, blank).ids)

    def bpe_posteriors(self, pooled: FloatArray, totals: FloatArray, ids: IntArray) -> FloatArray:
        """Log-probabilities ``(windows, n)`` of some ids of the BPE head.

        Args:
            pooled: ``(windows, D)``, a tap of the head.
            totals: ``(windows,)``, its tap :data:`BPE_TOTALS`.
            ids: ``(n,)``.
        """
        weight = self._weights.read_rows(f"{HEAD}.weight", ids)
        logits: FloatArray = pooled @ weight.T + self._file.read(f"{HEAD}.bias")[ids]
        return logits - totals[:, None]

    def run_projector_windows(self, captured: Batch) -> Batch:
        """Everything the projector makes of ``(T, captures * D)``: ``(3 * ceil(T / 15), 2048)``."""
        p = self.hparams.projector
        states = checked_rows("captured", captured, p.num_encoder_layers * p.encoder_dim)
        out = self._run(
            NO_TAPS,
            lambda graph: build_projector(graph, self._weights, p, states.counts),
            {"captured": states.array},
        )
        self._weights.let_go(Stage.PROJECTOR)
        check_results(self._file, "projector", *out.values())
        counts = tuple(-(-count // p.block_size) * p.n_queries for count in states.counts)
        return in_kind(captured, Rows(matrix(out["projected"]), counts))

    def scale_audio_tokens(self, projected: FloatArray, frames: int) -> FloatArray:
        """The audio tokens ``(T // 5, 2048)`` of the projector's windows, for ``frames`` T.

        Only tokens whose five frames exist are kept; they are divided by the embedding multiplier
        where the model says so, which the editor's multiplication undoes.
        """
        p, e = self.hparams.projector, self.hparams.editor
        tokens = projected[: frames // p.downsample_rate]
        return tokens / np.float32(e.embedding_multiplier) if p.scale_embeddings else tokens

    def run_projector(self, captured: Batch) -> Batch:
        """Audio tokens ``(T // 5, 2048)`` of captured states ``(T, captures * D)``, T at least 1,
        cut and scaled as :meth:`scale_audio_tokens` does it.
        """
        projected = as_rows(self.run_projector_windows(captured))
        frames = as_rows(captured).counts
        tokens = [self.scale_audio_tokens(*of) for of in zip(projected, frames, strict=True)]
        return in_kind(captured, Rows.of(tokens))

    def run_editor(
        self,
        audio_tokens: AnyArray | Rows,
        text_ids: Batch,
        taps: frozenset[str] = NO_TAPS,
    ) -> TokenResult[Batch]:
        """Best ids ``(n,)`` for text ids ``(n,)`` with slots, given audio tokens ``(A, 2048)``.

        ``taps`` may name ``editing_logits`` ``(n, vocabulary)``, not divided by the logits scale,
        and :data:`BEST_PROBABILITIES` ``(n,)``.
        """
        e = self.hparams.editor
        audio, text = as_rows(audio_tokens), as_rows(text_ids)
        if len(audio) != len(text):
            raise InputError(f"audio_tokens of {len(audio)} recordings, text_ids of {len(text)}")
        embedded = text.like(self._embed(audio, text))
        counts = [EditorRows(*of) for of in zip(audio.counts, text.counts, strict=True)]
        positions = Rows.of([np.arange(count.count, dtype=np.int32) for count in counts])
        of_text = [part[count.audio :] for part, count in zip(positions, counts, strict=True)]
        sides = zip(audio, embedded, strict=True)
        out = self._run(
            NO_TAPS,
            lambda graph: build_editor(graph, self._weights, e, counts),
            {
                "rows": np.concatenate([part for of in sides for part in of]),
                "positions": positions.array,
                "text_positions": np.concatenate(of_text),
            },
        )
        head = _Head(
            "editor",
            "editing_logits",
            e.vocab_size,
            {BEST_PROBABILITIES: lambda logits: decoding.best_probabilities(e, logits)},
            lambda graph, rows: build_editor_head(graph, self._weights, e, rows),
        )
        found = self._run_head(head, taps, {"state": matrix(out["state"])})
        self._weights.let_go(Stage.EDITOR)
        return _token_result(text_ids, text.counts, found)

    def _embed(self, audio: Rows, text: Rows) -> FloatArray:
        """The rows of text ids, after a look at what is to be edited."""
        e, ids = self.hparams.editor, text.array
        if len(audio.array):
            checked_rows("audio_tokens", audio.array, e.d_model)
        if ids.ndim != 1 or not all(text.counts):
            raise InputError(f"text_ids have the shape {ids.shape}, expected (n,), n > 0")
        if ids.min() < 0 or ids.max() >= e.vocab_size:
            raise InputError(f"text_ids are not all below the vocabulary size {e.vocab_size}")
        return self._weights.read_rows(TOKEN_EMBEDDING, ids)

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
        with self._runtime.lock, observe_inputs(self._runtime, self._file.specs) as observed:
            yield observed

    @contextmanager
    def observe_products(self) -> Iterator[Counter[ProductShape]]:
        """Count the matrix products that run inside the block.

        Yields:
            A counter that fills, by shape and type.
        """
        with self._runtime.lock, observe_products(self._runtime, self._file.specs) as counted:
            yield counted

    def _run_head(
        self, head: _Head, taps: frozenset[str], inputs: Mapping[str, AnyArray], step: int = 1
    ) -> dict[str, AnyArray]:
        """Best ids by the name ``ids``, and taps, of as many rows at a time as logits may take.

        A row is made of ``step`` rows of the inputs.
        """

        def read(logits: AnyArray) -> dict[str, AnyArray]:
            kept = matrix(logits)[:, : head.vocabulary]
            with np.errstate(all="ignore"):
                check_results(self._file, head.stage, kept.sum(axis=1))
            found = {name: make(kept) for name, make in head.derived.items() if name in taps}
            if head.logits in taps:
                found[head.logits] = kept.copy()
            return {"ids": decoding.best_ids(kept), **found}

        parts = []
        for part in _even_slices(len(next(iter(inputs.values()))) // step, step):
            given = {name: array[part] for name, array in inputs.items()}
            out = self._run(
                taps - head.derived.keys(),
                partial(head.build, rows=part.stop - part.start),
                given,
                {head.logits: read},
            )
            check_results(self._file, head.stage, out.pop("sums"))
            read_off = out.pop(head.logits)
            parts.append({**{name: matrix(array) for name, array in out.items()}, **read_off})
        return {name: Rows.of([part[name] for part in parts]).array for name in parts[0]}

    def _run(
        self,
        taps: frozenset[str],
        build: Callable[[Graph], None],
        inputs: Mapping[str, AnyArray],
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
        with self._runtime.lock:
            if self._closed:
                raise InputError("the model is closed")
            with Graph(taps, purpose=_PURPOSE, remedy=_SHORTER) as graph:
                yield graph


@dataclass(frozen=True)
class _Head:
    """A graph that makes logits.

    Attributes:
        stage: its name in messages.
        logits: the output's name.
        vocabulary: how many of the numbers of a row are the model's.
        derived: further taps, made of the logits ``(rows, vocabulary)``.
        build: declares it in a graph over so many ``rows`` of its inputs.
    """

    stage: str
    logits: str
    vocabulary: int
    derived: Mapping[str, Callable[[FloatArray], FloatArray]]
    build: Callable[..., None]


def _token_result(
    given: Batch, counts: tuple[int, ...], found: Mapping[str, AnyArray]
) -> TokenResult[Batch]:
    """What a head has found, in kind, with so many rows of each recording."""
    parts = {name: in_kind(given, Rows(array, counts)) for name, array in found.items()}
    return TokenResult(parts.pop("ids"), parts)


def _filled_up(part: AnyArray, step: int, value: float) -> AnyArray:
    """Rows with some of one value behind them, up to a multiple of ``step``."""
    missing = -len(part) % step
    if not missing:
        return part
    padding = ((0, missing), *((0, 0),) * (part.ndim - 1))
    return np.pad(part, padding, constant_values=value)


def _even_slices(rows: int, step: int = 1) -> list[slice]:
    """Slices of about as many rows each, at most ``_LOGIT_ROWS``; a row is ``step`` inputs."""
    count = -(-rows // _LOGIT_ROWS)
    ends = [rows * n // count * step for n in range(count + 1)]
    return [slice(*ends_of) for ends_of in pairwise(ends)]
