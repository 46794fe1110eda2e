"""The stages that the family's models share, one by one: each takes and gives numpy arrays.

    samples → log-mel frames → encoder → BPE head → first hypothesis

What takes rows takes them of one recording, as an array, or of several that go through the stage
together, as :class:`granite_gguf.arrays.Rows`, and answers in kind. Each recording of a batch gets
what it would get alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import (
    AnyArray,
    Batch,
    FloatArray,
    IntArray,
    Rows,
    Samples,
    as_rows,
    checked_rows,
    in_kind,
    matrix,
)
from granite_gguf.errors import AudioError, InputError
from granite_gguf.ggml import Graph, Reader, Runtime
from granite_gguf.graph.encoder import build_encoder
from granite_gguf.graph.hypothesis import HEAD, build_hypothesis
from granite_gguf.placing.finite import check_results
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.sound import features
from granite_gguf.spec.format import H
from granite_gguf.spec.hparams import BpeHead
from granite_gguf.spec.tensors import MEL_FILTERS, Stage
from granite_gguf.stages import decoding
from granite_gguf.stages.results import EncoderResult, TokenResult
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer

NO_TAPS: frozenset[str] = frozenset()

BPE_TOTALS = "bpe_totals"
"""A tap of the BPE head: what its softmax divides by, as a logarithm."""

BPE_BEST = "bpe_best_probabilities"
"""A tap of the BPE head: the probability of each best id."""

BPE_ENTROPIES = "bpe_entropies"
"""A tap of the BPE head: how uncertain each row is, in nats."""

_PURPOSE = "This stretch of audio"
_SHORTER = "Transcribe it in shorter pieces (--chunk-seconds), or free some memory"
_LOGIT_ROWS = 160  # computed at once: 64 MB of the released model's 100,353 logits


class SharedStages(ABC, Generic[H]):
    """What a model computes, on one runtime. Calls from several threads take turns.

    Args:
        file: the model's file.
        tokenizer: its tokenizer.
        weights: its weights, where the runtime's device reads them.
        runtime: computes.
    """

    def __init__(
        self,
        file: ModelFile[H],
        tokenizer: SpeechTokenizer,
        weights: ModelWeights,
        runtime: Runtime,
    ) -> None:
        self._file, self._tokenizer = file, tokenizer
        self._weights, self._runtime = weights, runtime
        self._filters = file.read(MEL_FILTERS)
        self._closed = False

    @property
    def file(self) -> ModelFile[H]:
        """The model's file."""
        return self._file

    @property
    def hparams(self) -> H:
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

    @property
    @abstractmethod
    def _bpe_head(self) -> BpeHead:
        """The numbers of the head that makes a first hypothesis."""

    @abstractmethod
    def read_hypothesis(self, ids: Batch) -> Batch:
        """Token ids ``(n,)`` of the first hypothesis, from the best ids of the BPE head."""

    def hypothesis_text(self, samples: FloatArray) -> str:
        """What the encoder alone hears in mono samples ``(n,)`` at the model's rate.

        Nothing where nothing sounds.
        """
        mel = self.compute_mel(samples)
        return self._heard(mel) if len(mel) and samples.min() != samples.max() else ""

    def _heard(self, mel: FloatArray) -> str:
        """The same of log-mel frames ``(T, 160)``, T at least 1, by the BPE head."""
        encoded = self.run_encoder(mel)
        ids = self.run_hypothesis_head(encoded.final, encoded.blank).ids
        return self.detokenize(self.read_hypothesis(ids))

    @abstractmethod
    def in_turn(self, samples: Samples) -> Generator[str, None, int | None]:
        """Run a pass of mono samples ``(n,)``, at least one frame of them.

        Yields the name of each stage before it runs, of those whose work depends on nothing but
        the audio; returns how many rows of text are edited, where they are.
        """

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

        ``taps`` may name ``encoder_layer_K``, for each K from 0 on, and ``encoder_logits``.
        """
        e, frames = self.hparams.encoder, checked_rows("mel", mel, self.hparams.encoder.input_dim)
        out = self._run_stage(
            Stage.ENCODER,
            taps,
            lambda graph: build_encoder(graph, self._weights, e, frames.counts),
            {"mel": frames.array},
        )
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
            taps: may name ``pooled``, ``bpe_logits``, :data:`BPE_TOTALS`, :data:`BPE_BEST` and
                :data:`BPE_ENTROPIES`.
        """
        e, h = self.hparams.encoder, self._bpe_head
        if not h.bpe_vocab:
            raise InputError(f"{self._file.path}: has no BPE head, which makes a first hypothesis")
        states, silence = checked_rows("final", final, e.d_model), as_rows(blank)
        if silence.counts != states.counts or silence.array.ndim != 1:
            raise InputError(
                f"blank has the shape {silence.array.shape}, expected ({len(states.array)},)"
            )
        # What fills up a window is surely blank, and weighs nothing.
        window = h.pooling_window
        states = states.each(lambda part: _filled_up(part, window, 0.0))
        silence = silence.each(lambda part: _filled_up(part, window, 1.0))
        head = Head(
            "first hypothesis",
            "bpe_logits",
            h.bpe_vocab,
            {
                BPE_TOTALS: decoding.log_totals,
                BPE_BEST: decoding.best_probabilities,
                BPE_ENTROPIES: decoding.entropies,
            },
            lambda graph, rows: build_hypothesis(graph, self._weights, window, e.d_model, rows),
        )
        found = self._run_head(head, taps, {"final": states.array, "blank": silence.array}, window)
        self._weights.let_go(Stage.ENCODER)
        counts = tuple(count // window for count in states.counts)
        return token_result(final, counts, found)

    def bpe_posteriors(self, pooled: FloatArray, totals: FloatArray, ids: IntArray) -> FloatArray:
        """Log-probabilities ``(windows, n)`` of some ids of the BPE head.

        Args:
            pooled: ``(windows, D)``, a tap of the head.
            totals: ``(windows,)``, its tap :data:`BPE_TOTALS`.
            ids: ``(n,)``.
        """
        weight = self._weights.read_rows(f"{HEAD}.weight", ids)
        # Not by numpy's BLAS, which does not survive a fork while another thread is in it.
        logits: FloatArray = np.einsum("wd,nd->wn", pooled, weight)
        return logits + self._file.read(f"{HEAD}.bias")[ids] - totals[:, None]

    def tokenize(self, text: str) -> IntArray:
        """Token ids ``(n,)`` of a text, without BOS or EOS."""
        return self._tokenizer.encode(text)

    def detokenize(self, tokens: npt.NDArray[np.integer]) -> str:
        """The text of tokens; special ones are skipped."""
        return self._tokenizer.decode(tokens)

    def _run_head(
        self, head: Head, taps: frozenset[str], inputs: Mapping[str, AnyArray], step: int = 1
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

    def _run_stage(
        self,
        stage: Stage,
        taps: frozenset[str],
        build: Callable[[Graph], None],
        inputs: Mapping[str, AnyArray],
    ) -> dict[str, AnyArray]:
        """The outputs ``(rows, width)`` of a graph of a stage's weights, all of them finite."""
        out = self._run(taps, build, inputs)
        self._weights.let_go(stage)
        check_results(self._file, stage.value, *out.values())
        return {name: matrix(array) for name, array in out.items()}

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
        """A graph to build."""
        watched = self._runtime.watched
        with (
            self._computing(),
            Graph(taps, purpose=_PURPOSE, remedy=_SHORTER, watched=watched) as graph,
        ):
            yield graph

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Other threads wait."""
        with self._runtime.lock:
            if self._closed:
                raise InputError("the model is closed")
            yield


@dataclass(frozen=True)
class Head:
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


def token_result(
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
