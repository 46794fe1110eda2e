"""The stages of the non-autoregressive model, one by one: each takes and gives numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from granite_gguf.arrays import (
    AnyArray,
    Batch,
    FloatArray,
    Rows,
    Samples,
    as_rows,
    checked_rows,
    in_kind,
    matrix,
)
from granite_gguf.errors import InputError
from granite_gguf.nar import decoding
from granite_gguf.nar.editor import EditorRows, build_editor, build_editor_head
from granite_gguf.nar.projector import build_projector
from granite_gguf.nar.spec import HParams, Hypothesis
from granite_gguf.spec.tensors import TOKEN_EMBEDDING, Stage
from granite_gguf.stages import characters
from granite_gguf.stages.decoding import hypothesis_tokens
from granite_gguf.stages.results import TokenResult
from granite_gguf.stages.shared import NO_TAPS, Head, SharedStages, token_result

BEST_PROBABILITIES = "best_probabilities"
"""A tap of the editor: the probability of each best id."""


Timer = Callable[[str], AbstractContextManager[None]]
"""Takes the seconds of a stage."""


@dataclass(frozen=True)
class Hearing:
    """What is heard in recordings before anything is edited.

    Attributes:
        head: what the BPE head says.
        blank: the blank's probability in each frame, ``(T,)``.
        logits: of the character head ``(T, characters)``, where they are asked for.
        audio: what the editor is to hear, in the form that the stages have it in.
    """

    head: TokenResult[Rows]
    blank: Rows
    logits: Rows | None
    audio: Any


class Stages(SharedStages[HParams]):
    """What a NAR model computes, see :class:`granite_gguf.stages.shared.SharedStages`."""

    @property
    def max_positions(self) -> int:
        """Rows of audio and text that the editor takes together."""
        return self.hparams.editor.max_positions

    @contextmanager
    def hear(self, mel: Rows, taps: frozenset[str], timer: Timer) -> Iterator[Hearing]:
        """All that depends on nothing but the audio; inside the block it can be edited.

        Args:
            mel: log-mel frames ``(T, 160)``, T at least 1.
            taps: may name :data:`granite_gguf.stages.characters.LOGITS`, and ``pooled``,
                :data:`BPE_TOTALS` and :data:`BPE_BEST` of the BPE head.
            timer: takes the seconds.
        """
        of_encoder = taps & {characters.LOGITS}
        with timer("encoder"):
            encoded = self.run_encoder(mel, of_encoder)
        with timer("hypothesis"):
            head = self.run_hypothesis_head(encoded.final, encoded.blank, taps - of_encoder)
        logits = encoded.taps.get(characters.LOGITS)
        yield Hearing(head, encoded.blank, logits, encoded.captured)

    def edit(
        self, hearing: Hearing, which: Sequence[int], slots: Rows, timer: Timer
    ) -> TokenResult[Rows]:
        """Best ids ``(n,)`` for text ids ``(n,)`` with slots.

        Args:
            hearing: what is heard.
            which: the numbers of the recordings that are edited.
            slots: the text of each of them.
            timer: takes the seconds.

        Returns:
            The ids, with the tap :data:`BEST_PROBABILITIES`.
        """
        with timer("projector"):
            audio_tokens = self.run_projector(hearing.audio.some(which))
        with timer("editor"):
            return self.run_editor(audio_tokens, slots, frozenset({BEST_PROBABILITIES}))

    @property
    def _bpe_head(self) -> Hypothesis:
        return self.hparams.hypothesis

    def read_hypothesis(self, ids: Batch) -> Batch:
        """Token ids ``(n,)`` of the first hypothesis, from the best ids of the BPE head.

        Where the model was so trained, they are the tokens of its text stripped and lower-cased.
        """
        h = self.hparams.hypothesis
        tokens = as_rows(ids).each(lambda part: hypothesis_tokens(h, part))
        return in_kind(
            ids, tokens.each(self._tokenizer.normalise_hypothesis) if h.retokenize else tokens
        )

    def run_hypothesis(self, final: Batch, blank: Batch) -> Batch:
        """Token ids ``(n,)`` of the first hypothesis, from the encoder's results."""
        return self.read_hypothesis(self.run_hypothesis_head(final, blank).ids)

    def run_projector_windows(self, captured: Batch) -> Batch:
        """Everything the projector makes of ``(T, captures * D)``: ``(3 * ceil(T / 15), 2048)``."""
        p = self.hparams.projector
        states = checked_rows("captured", captured, p.num_encoder_layers * p.encoder_dim)
        out = self._run_stage(
            Stage.PROJECTOR,
            NO_TAPS,
            lambda graph: build_projector(graph, self._weights, p, states.counts),
            {"captured": states.array},
        )
        counts = tuple(-(-count // p.block_size) * p.n_queries for count in states.counts)
        return in_kind(captured, Rows(out["projected"], counts))

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
        self, audio_tokens: AnyArray | Rows, text_ids: Batch, taps: frozenset[str] = NO_TAPS
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
        head = Head(
            "editor",
            "editing_logits",
            e.vocab_size,
            {BEST_PROBABILITIES: lambda logits: decoding.best_probabilities(e, logits)},
            lambda graph, rows: build_editor_head(graph, self._weights, e, rows),
        )
        found = self._run_head(head, taps, {"state": matrix(out["state"])})
        self._weights.let_go(Stage.EDITOR)
        return token_result(text_ids, text.counts, found)

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

    def in_turn(self, samples: Samples) -> Generator[str, None, int | None]:
        """Run a pass of mono samples ``(n,)``; yields each stage's name before it runs.

        Returns:
            How many rows of text are edited, the slots included; None where there is no frame.
        """
        mel = self.compute_mel(samples)
        if not len(mel):
            return None
        yield "encoder"
        encoded = self.run_encoder(mel)
        yield "hypothesis"
        text = decoding.insert_slots(
            self.hparams.editor, self.run_hypothesis(encoded.final, encoded.blank)
        )
        yield "projector"
        audio_tokens = self.run_projector(encoded.captured)
        yield "editor"
        self.run_editor(audio_tokens, text)
        return len(text)
