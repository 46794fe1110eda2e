"""The stages of the non-autoregressive model for a device that wants many recordings at a time.

    mel → encoder ┬→ pooled → BPE head → best ids, probabilities ──→ hypothesis on the host
                  └→ projector → audio tokens, which stay where they are ─┐
    best ids ← head ← text rows ← 40 layers ← rows, gathered by number ←──┴─ rows of the text

Recordings are filled up to the longest, so that each operation does all of them, and what is
between the stages is not brought to the host. On a CPU, recordings as they are take less time, see
:class:`granite_gguf.nar.stages.Stages`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from granite_gguf.arrays import AnyArray, Rows, checked_rows
from granite_gguf.errors import InputError
from granite_gguf.ggml import (
    F16,
    F32,
    I32,
    Graph,
    State,
    Tensor,
    argmax,
    concat,
    numbers_at,
    rows_at,
)
from granite_gguf.graph.encoder import encode
from granite_gguf.graph.granite import Bundle, bundled_layer, granite_head
from granite_gguf.graph.hypothesis import HEAD, pool
from granite_gguf.graph.layers import Weights, linear, rms_norm
from granite_gguf.graph.layout import Padded, filling
from granite_gguf.nar.editor import EditorRows
from granite_gguf.nar.projector import project
from granite_gguf.nar.spec import Editor, HParams
from granite_gguf.nar.stages import BEST_PROBABILITIES, Hearing, Stages, Timer
from granite_gguf.placing.finite import check_results
from granite_gguf.spec.tensors import NLE_NAMES, TOKEN_EMBEDDING, Stage
from granite_gguf.stages import characters
from granite_gguf.stages.results import TokenResult
from granite_gguf.stages.shared import BPE_BEST, BPE_TOTALS, NO_TAPS

_AUDIO = "audio_tokens"
_LOGIT_ROWS = 2048  # computed at once: 822 MB of the released model's 100,353 logits


class PaddedStages(Stages):
    """What a NAR model computes, and passes of many recordings at once."""

    @contextmanager
    def hear(self, mel: Rows, taps: frozenset[str], timer: Timer) -> Iterator[Hearing]:
        """As :meth:`granite_gguf.nar.stages.Stages.hear`."""
        h = self.hparams
        frames = checked_rows("mel", mel, h.encoder.input_dim)
        lengths = frames.counts
        windows = -(-max(lengths) // h.projector.block_size)
        tokens = windows * h.projector.n_queries
        with State(self._runtime, 1) as state:
            with timer("encoder"):
                state.add(_AUDIO, [h.projector.llm_dim, tokens * len(lengths)], F32)
                state.place("The audio tokens", "Transcribe fewer recordings at a time")
                out = self._run(
                    NO_TAPS,
                    lambda graph: _build_hearing(graph, self._weights, h, lengths, taps, state),
                    {
                        "mel": filled_up(frames),
                        "places": np.arange(tokens * len(lengths), dtype=np.int32),
                        **filling(lengths, h.encoder.context_size),
                    },
                )
            yield self._hearing(lengths, out, taps, state, tokens)

    def _hearing(
        self,
        lengths: Sequence[int],
        out: Mapping[str, AnyArray],
        taps: frozenset[str],
        state: State,
        tokens: int,
    ) -> Hearing:
        y = self.hparams.hypothesis
        counts = [-(-length // y.pooling_window) for length in lengths]
        each = -(-max(lengths) // y.pooling_window)

        def of_windows(name: str) -> Rows:
            return cut(_in_all_parts(out, name).reshape(len(lengths), each), counts)

        def of_frames(name: str) -> Rows:
            return cut(out[name].reshape(len(lengths), max(lengths), -1), lengths)

        sums = [out[name] for name in out if name.startswith("sums")]
        check_results(self._file, "encoder", *sums)
        best = pooled = None
        if taps & {BPE_BEST, BPE_TOTALS}:
            best = of_windows("logits"), of_windows("probabilities")
        if "pooled" in taps:
            pooled = cut(out["pooled"].reshape(len(lengths), each, -1), counts)
        blank = of_frames("blank")
        return Hearing(
            head_result(of_windows("ids"), best, pooled),
            blank.like(blank.array[:, 0]),
            of_frames(characters.LOGITS) if characters.LOGITS in taps else None,
            Kept(state, tokens, lengths),
        )

    def edit(
        self, hearing: Hearing, which: Sequence[int], slots: Rows, timer: Timer
    ) -> TokenResult[Rows]:
        """As :meth:`granite_gguf.nar.stages.Stages.edit`."""
        if not isinstance(hearing.audio, Kept):
            raise InputError("what was heard is of other stages")
        e, kept = self.hparams.editor, hearing.audio
        with timer("editor"):
            ids, number = np.unique(slots.array, return_inverse=True)
            rate = self.hparams.projector.downsample_rate
            plan = kept.gathered(which, slots.like(number), rate)
            out = self._run(
                NO_TAPS,
                lambda graph: _build_editing(graph, self._weights, e, plan, kept.tokens_in),
                {"table": self._weights.read_rows(TOKEN_EMBEDDING, ids), **plan.inputs},
            )
            self._weights.let_go(Stage.EDITOR)
            check_results(self._file, "editor", out["sums"])
        return plan.result(_in_all_parts(out, "ids"), _in_all_parts(out, "probabilities"))


@dataclass(frozen=True)
class Kept:
    """Audio tokens on the device: of each recording as many rows, of which some count.

    Attributes:
        tokens_in: holds them.
        tokens: rows of each recording.
        lengths: frames of each.
    """

    tokens_in: Any
    tokens: int
    lengths: Sequence[int]

    def gathered(self, which: Sequence[int], numbers: Rows, rate: int) -> Gathered:
        """What the editor gathers of some recordings.

        Args:
            which: their numbers.
            numbers: of each row of their texts, its row in the table.
            rate: frames of an audio token.
        """
        texts = zip(which, numbers.counts, strict=True)
        return Gathered(
            [EditorRows(self.lengths[n] // rate, count) for n, count in texts],
            [n * self.tokens for n in which],
            self.tokens * len(self.lengths),
            numbers,
        )


@dataclass(frozen=True)
class Gathered:
    """Which rows the editor gathers, from those of the audio and behind them those of the table.

    Attributes:
        recordings: their rows.
        starts: of each recording, its first row of audio.
        below: rows of audio.
        numbers: of each row of text, its row in the table.
    """

    recordings: Sequence[EditorRows]
    starts: Sequence[int]
    below: int
    numbers: Rows

    @cached_property
    def rows(self) -> int:
        """Rows of the longest recording."""
        return max(of.count for of in self.recordings)

    @cached_property
    def text(self) -> int:
        """Rows of the longest text."""
        return max(of.text for of in self.recordings)

    def result(self, ids: AnyArray, probabilities: AnyArray) -> TokenResult[Rows]:
        """The best ids and their probabilities of all text rows, without those that fill up."""

        def of_texts(array: AnyArray) -> Rows:
            return cut(array.reshape(len(self.recordings), self.text), self.numbers.counts)

        best = of_texts(ids)
        return TokenResult(
            best.like(best.array.astype(np.int64)), {BEST_PROBABILITIES: of_texts(probabilities)}
        )

    @property
    def table(self) -> int:
        """Rows of the table."""
        return int(self.numbers.array.max()) + 1

    @property
    def even(self) -> bool:
        """Whether nothing is filled up."""
        return all(of.count == self.rows for of in self.recordings)

    @property
    def inputs(self) -> dict[str, AnyArray]:
        """What the graph is given. What fills up is the first row of all."""
        count = len(self.recordings)
        places = np.zeros((count, self.rows), np.int32)
        text_places = np.zeros((count, self.text), np.int32)
        text_positions = np.zeros((count, self.text), np.int32)
        mask = np.zeros((count, self.rows), np.float16)
        every = zip(self.recordings, self.starts, self.numbers, strict=True)
        for n, (of, start, numbers) in enumerate(every):
            places[n, : of.audio] = start + np.arange(of.audio)
            places[n, of.audio : of.count] = self.below + numbers
            text_positions[n, : of.text] = of.audio + np.arange(of.text)
            text_places[n, : of.text] = n * self.rows + text_positions[n, : of.text]
            mask[n, of.count :] = -np.inf
        positions = np.tile(np.arange(self.rows, dtype=np.int32), count)
        given = {
            "places": places.reshape(-1),
            "positions": positions,
            "text_places": text_places.reshape(-1),
            "text_positions": text_positions.reshape(-1),
        }
        return given if self.even else {**given, "mask": mask}


def _build_hearing(
    graph: Graph,
    w: Weights,
    h: HParams,
    lengths: Sequence[int],
    taps: frozenset[str],
    state: State,
) -> None:
    """Declare encoder, BPE head and projector over recordings of these numbers of frames.

    Inputs: ``mel`` ``[input_dim, T]``, ``places`` of the audio tokens in their state, and those of
    :func:`granite_gguf.graph.layout.filling`. Outputs: ``blank`` ``[1, T]``; ``ids.N`` ``[rows]``
    and where they are asked for ``logits.N`` and ``probabilities.N`` of them, part by part;
    ``sums.N``, finite where the states are.
    """
    y, p = h.hypothesis, h.projector
    frames = Padded(graph, lengths)
    encoded = encode(
        graph, w, h.encoder, graph.input("mel", [h.encoder.input_dim, frames.rows]), frames
    )
    blank = graph.output("blank", encoded.blank)
    if characters.LOGITS in taps:
        graph.output(characters.LOGITS, encoded.logits)
    speech = frames.in_whole(y.pooling_window, blank.scale_shift(-1.0, 1.0))
    final = frames.in_whole(y.pooling_window, encoded.final)
    pooled = pool(y.pooling_window, final, speech)
    if "pooled" in taps:
        graph.output("pooled", pooled)
    graph.output("sums", encoded.final.sum_rows())
    sure = bool(taps & {BPE_BEST, BPE_TOTALS})
    _output_best(graph, pooled, lambda x: linear(w, HEAD, x), y.bpe_vocab, sure, 1.0)
    projected = project(w, p, encoded.captured, frames)
    if p.scale_embeddings:
        projected = projected * (1.0 / h.editor.embedding_multiplier)
    kept = state.tensors[_AUDIO]
    places = graph.input("places", [projected.ne[1]], I32, below=kept.ne[1])
    graph.output(_AUDIO, kept.with_rows(projected, places))


def _build_editing(graph: Graph, w: Weights, e: Editor, plan: Gathered, state: State) -> None:
    """Declare the layers and the head.

    Inputs: ``table`` ``[d_model, rows]``, and those of the plan. Outputs: ``ids.N`` and
    ``probabilities.N``, part by part; ``sums``, finite where the text's states are.
    """
    count, kept = len(plan.recordings), state.tensors[_AUDIO]
    table = graph.input("table", [e.d_model, plan.table])
    places = graph.input("places", [plan.rows * count], I32, below=plan.below + plan.table)
    rows = rows_at(concat([kept.beside(table), table], 1), places) * e.embedding_multiplier
    x = Bundle(rows, graph.input("positions", [plan.rows * count], I32), plan.rows, count)
    text_places = graph.input("text_places", [plan.text * count], I32, below=plan.rows * count)
    text_positions = graph.input("text_positions", [plan.text * count], I32)
    mask = text_mask = None
    if not plan.even:
        keys = graph.input("mask", [plan.rows, count], F16).reshape(plan.rows, 1, 1, count)
        mask, text_mask = keys.spread(plan.rows), keys.spread(plan.text)
    for n in range(e.n_layers - 1):
        x = replace(x, x=bundled_layer(w, NLE_NAMES, n, e, x, x, mask))
    text = Bundle(rows_at(x.x, text_places), text_positions, plan.text, count)
    state_of_text = bundled_layer(w, NLE_NAMES, e.n_layers - 1, e, x, text, text_mask)
    normed = rms_norm(w, NLE_NAMES.norm, state_of_text, e.rms_norm_eps)
    graph.output("sums", normed.sum_rows())
    scale = 1.0 / e.logits_scaling if e.apply_logits_scaling else 1.0
    _output_best(graph, normed, lambda x: granite_head(w, NLE_NAMES, x), e.vocab_size, True, scale)


def _output_best(
    graph: Graph,
    x: Tensor,
    head: Callable[[Tensor], Tensor],
    vocabulary: int,
    sure: bool,
    scale: float,
) -> None:
    """The best ids of rows, and if asked for their logits and probabilities, part by part."""
    ends = range(0, x.ne[1] + _LOGIT_ROWS, _LOGIT_ROWS)
    for n, (start, end) in enumerate(pairwise(min(end, x.ne[1]) for end in ends)):
        logits = head(x.rows(start, end - start))
        if logits.ne[0] > vocabulary:  # the head's rows are filled up
            logits = logits.columns(0, vocabulary).contiguous_copy()
        ids = graph.output(f"ids.{n}", argmax(logits))
        if sure:
            graph.output(f"logits.{n}", numbers_at(logits, ids))
            graph.output(f"probabilities.{n}", numbers_at(logits.softmax(scale), ids))


def _in_all_parts(out: Mapping[str, AnyArray], name: str) -> AnyArray:
    """An output of :func:`_output_best`, the rows of all parts."""
    parts = sum(key.startswith("ids.") for key in out)
    return np.concatenate([out[f"{name}.{n}"].reshape(-1) for n in range(parts)])


def head_result(
    ids: Rows, best: tuple[Rows, Rows] | None, pooled: Rows | None
) -> TokenResult[Rows]:
    """What the BPE head says, with the taps that it has.

    Args:
        ids: the best of each window.
        best: their logits and their probabilities, if these are known.
        pooled: the means that the head is given, if these are asked for.
    """
    taps = {}
    if best is not None:
        tops, taps[BPE_BEST] = best
        taps[BPE_TOTALS] = tops.like(tops.array - np.log(taps[BPE_BEST].array))
    if pooled is not None:
        taps["pooled"] = pooled
    return TokenResult(ids.like(ids.array.astype(np.int64)), taps)


def filled_up(rows: Rows) -> AnyArray:
    """All with zeros behind them, up to the longest, ``(count * longest, width)``."""
    longest = max(rows.counts)
    if min(rows.counts) == longest:
        return rows.array
    filled = np.zeros((len(rows), longest, rows.array.shape[1]), rows.array.dtype)
    for part, of in zip(filled, rows, strict=True):
        part[: len(of)] = of
    return filled.reshape(-1, filled.shape[2])


def cut(filled: AnyArray, counts: Sequence[int]) -> Rows:
    """The first rows of each of ``(recordings, rows, ...)``."""
    return Rows.of([part[:count] for part, count in zip(filled, counts, strict=True)])
