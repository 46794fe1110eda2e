"""One pass of the autoregressive model: what is said in pieces of audio, by whom, and when.

samples → log-mel frames → encoder ┬→ hypothesis → draft ───────────────┐
                                   └→ projector → audio rows in a prompt ┴→ language model
                                                                         → text, tags read off
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from granite_gguf.arrays import FloatArray, IntArray, Rows
from granite_gguf.errors import InputError, brief
from granite_gguf.passes import CONTINUING, NOTHING_ELSE, Before, Editor, Options, Piece, timed
from granite_gguf.speech import keywords
from granite_gguf.speech.asking import RAW, around_audio, instruction, language_name
from granite_gguf.speech.drafts import is_sure
from granite_gguf.speech.greedy import End, Said
from granite_gguf.speech.loops import token_budget
from granite_gguf.speech.reading import Answer, even_words, placed_words, tagged_words
from granite_gguf.speech.spec import HParams
from granite_gguf.speech.stages import SpeechStages
from granite_gguf.speech.tags import last_speaker
from granite_gguf.stages import characters
from granite_gguf.stages.decoding import confidence, no_speech, run_probabilities
from granite_gguf.stages.passing import silent_segment, sounding_features
from granite_gguf.stages.results import EncoderResult, TokenResult
from granite_gguf.stages.shared import BPE_BEST, BPE_ENTROPIES, BPE_TOTALS
from granite_gguf.transcript import Decoding, Segment, Word
from granite_gguf.words.times import Heard, Spellings, character_spellings, token_spellings

TAGGED_SECONDS = 300.0  # the longest audio whose words a plus model times, by its card


# Letters of the hypothesis for each of a text, and those beyond, that tell that it ends too early.
_MUCH = 3.0
_A_SENTENCE = 20


@dataclass(frozen=True)
class Manner:
    """How a model is asked for what options want.

    Attributes:
        words: the instruction.
        tagged: whether the model itself is to tell when words end.
        spread: whether nothing tells that, so that words are spread evenly.
        speakers: whether it is to tell who speaks.
        translated_to: the language, if it is to translate.
        drafted: whether what is heard is a draft of the text.
        unseen: whether a draft that is sure is the text, without looking at it.
        free: whether the instruction is the user's own, and the text may be anything.
        listened: whether it is told only those of the keywords that may be heard.
    """

    words: str
    tagged: bool
    spread: bool
    speakers: bool
    translated_to: str | None
    drafted: bool
    unseen: bool
    free: bool
    listened: bool

    @classmethod
    def of(
        cls, h: HParams, known: Mapping[str, int], options: Options, *, fast: bool = False
    ) -> Manner:
        """The manner of a model with such numbers and known labels of characters.

        Args:
            h: its numbers.
            known: a label of each character.
            options: what is wanted.
            fast: whether it may be less exact.

        Raises:
            InputError: the model cannot do it; it tells what can.
        """
        wish = options.wish
        if options.max_tokens is not None and options.max_tokens < 1:
            raise InputError(f"max_tokens is {options.max_tokens}, expected 1 or more")
        if options.editor not in (None, Editor.ALWAYS):
            raise InputError(
                f"editor is {str(options.editor)!r}, and this model has none; "
                "granite-speech-4.1-2b-nar edits its hypothesis"
            )
        if options.context is not None and h.family != "plus":
            raise InputError(f"this model continues no text; {CONTINUING} does")
        plain = wish == NOTHING_ELSE and options.context is None
        tagged = options.word_times and h.family == "plus" and plain
        if tagged:
            wish = replace(wish, word_times=True)
        translated = None if wish.translate_to is None else language_name(wish.translate_to)
        words = instruction(h, wish)
        spread = translated is not None or not (tagged or h.draft.bpe_vocab or known)
        if options.word_times and spread and not (translated or options.rough_times):
            raise InputError(
                "this file does not tell the characters of its encoder's head, without which words "
                "have no times; the file of a released model does, and one of "
                "granite-speech-4.1-2b with its draft head; subtitles do without"
            )
        return cls(
            words,
            tagged,
            spread,
            wish.speakers,
            translated,
            # A tag after every word leaves nothing to follow, nor does another language.
            options.draft and not tagged and translated is None,
            # What is heard is words alone, without what else can be asked for.
            fast and options.draft and words == RAW and bool(h.draft.bpe_vocab),
            wish.prompt is not None,
            bool(wish.keywords) and " " in known,
        )


def one_pass(
    model: SpeechStages, pieces: Sequence[Piece], options: Options, *, fast: bool = False
) -> list[Segment | None]:
    """All stages on pieces of one or several recordings, together.

    Each gets what it would get alone; seconds are shared out by its length. If it may be ``fast``,
    a draft that is sure is the text of a plain transcription.

    Returns:
        A segment of index 0 for each piece, or None where it is too long for what is asked.

    Raises:
        InputError: the model cannot do what is asked.
    """
    manner = Manner.of(model.hparams, model.known_characters, options, fast=fast)
    rate = model.hparams.front_end.sample_rate
    found: list[Segment | None] = [None] * len(pieces)
    sounding = {}
    for n, piece in enumerate(pieces):
        if manner.tagged and len(piece.samples) > TAGGED_SECONDS * rate:
            continue
        mel = sounding_features(model, piece)
        if len(mel) and piece.before is not None:
            mel = sounding_features(model, _after(model.hparams, piece.before, piece))
        found[n] = _silent(model, manner, piece, options)
        if len(mel):
            sounding[n] = mel
    if sounding:
        together = [pieces[n] for n in sounding]
        segments = _Pass(model, manner, options, together).run(list(sounding.values()))
        for n, segment in zip(sounding, segments, strict=True):
            found[n] = segment
    return found


def _after(h: HParams, before: Before, piece: Piece) -> Piece:
    """A piece with what is heard again at its beginning, cut so that it is whole frames."""
    again = before.samples[len(before.samples) % h.front_end.stride :]
    return replace(piece, samples=np.append(again, piece.samples), features=None)


def _own(h: HParams, rows: Rows, pieces: Sequence[Piece]) -> Rows:
    """The rows of frames without those of what is heard again."""
    again = [piece.again // h.front_end.stride for piece in pieces]
    if not any(again):
        return rows
    return Rows.of([part[n:] for part, n in zip(rows, again, strict=True)])


def _silent(model: SpeechStages, manner: Manner, piece: Piece, options: Options) -> Segment:
    """The segment of a piece in which nothing is said."""
    return replace(
        silent_segment(model, piece, options),
        turns=() if manner.speakers else None,
        translated_to=manner.translated_to,
    )


@dataclass
class _Pass:
    """Pieces that sound, on their way through the stages."""

    model: SpeechStages
    manner: Manner
    options: Options
    pieces: Sequence[Piece]

    def run(self, mels: Sequence[FloatArray]) -> list[Segment]:
        """Their segments."""
        model, pieces, manner = self.model, self.pieces, self.manner
        mel = Rows.of(mels)
        with timed("encoder", pieces):
            heard_by = {*model.heard_by, *([characters.LOGITS] if manner.listened else [])}
            encoded = model.run_encoder(mel, frozenset(heard_by))
        captured, own = encoded.captured, partial(_own, model.hparams, pieces=pieces)
        mel, taps = own(mel), {name: own(tap) for name, tap in encoded.taps.items()}
        encoded = EncoderResult(captured, own(encoded.final), own(encoded.blank), taps)
        with timed("hypothesis", pieces):
            head = self._bpe(encoded) if model.has_head else None
            hypotheses = [
                model.first_hypothesis(
                    {name: tap[n] for name, tap in encoded.taps.items()},
                    None if head is None else head.ids[n],
                )
                for n in range(len(pieces))
            ]
        said, rows = self._say(encoded, hypotheses, head)
        segments = []
        for n, piece in enumerate(pieces):
            text = said[n]
            so_far = last_speaker(piece.before.text) if manner.speakers and piece.before else None
            answer = Answer(model.tokenizer, text, so_far)
            segment = replace(
                _silent(model, manner, piece, self.options),
                text=answer.shown(tagged=manner.tagged),
                hypothesis=hypotheses[n][0],
                token_ids=text.tokens,
                confidence=confidence(np.array(text.probabilities)),
                no_speech_prob=no_speech(encoded.blank[n]),
                decoding=Decoding(text.steps, text.guessed, text.accepted, text.unseen),
                complete=text.end is End.FINISHED,
            )
            if manner.speakers:
                segment = replace(segment, turns=answer.turns())
            segment = replace(segment, heard=self._heard(segment))
            segment = replace(segment, remarks=tuple(self._remarks(piece, text, rows[n], segment)))
            if self.options.word_times:
                with timed("words", [piece]):
                    words = self._words(n, answer, mel, encoded, head)
                segment = replace(segment, words=words)
            segments.append(segment)
        return segments

    def _say(
        self,
        encoded: EncoderResult[Rows],
        hypotheses: Sequence[tuple[str, IntArray | None]],
        head: TokenResult[Rows] | None,
    ) -> tuple[dict[int, Said], dict[int, int]]:
        """The text of each piece, and how many rows its prompt has, if it has any."""
        model, manner = self.model, self.manner
        every = range(len(self.pieces))
        said = {n: text for n in every if (text := self._unseen(n, head, hypotheses[n][1]))}
        left = [n for n in every if n not in said]
        rows = dict.fromkeys(every, 0)
        if not left:
            return said, rows
        pieces = [self.pieces[n] for n in left]
        with timed("hotwords", pieces) if manner.listened else nullcontext():
            words = [self._instruction(encoded, n) for n in left]
        with timed("projector", pieces):
            audio = model.run_projector(encoded.captured.some(left))
        with timed("language model", pieces):
            prompts = [
                model.prompt(part, self._around(piece, asked))
                for part, piece, asked in zip(audio, pieces, words, strict=True)
            ]
            budgets = [self._budget(piece) for piece in pieces]
            drafts = [hypotheses[n][1] if manner.drafted else None for n in left]
            found = model.generate(prompts, budgets, drafts, lambda n: pieces[n].stop.asked())
        rows |= zip(left, map(len, prompts), strict=True)
        return said | dict(zip(left, found, strict=True)), rows

    def _instruction(self, encoded: EncoderResult[Rows], n: int) -> str:
        """The words for a piece, with the keywords that it is to be told.

        Where there are none, a text in the same form is asked for: raw, where it is no translation.
        """
        if not self.manner.listened:
            return self.manner.words
        wish, known = self.options.wish, self.model.known_characters
        told = keywords.chosen(wish.hotwords, known, encoded.taps[characters.LOGITS][n])
        wish = replace(wish, keywords=told)
        if not told and wish.translate_to is None:
            wish = replace(wish, punctuation=False)
        return instruction(self.model.hparams, wish)

    def _around(self, piece: Piece, words: str) -> tuple[str, str]:
        """The prompt's text before the audio and behind it, with what was said before a piece."""
        so_far = "" if piece.before is None else piece.before.text
        return around_audio(self.model.hparams, words, so_far)

    def _bpe(self, encoded: EncoderResult[Rows]) -> TokenResult[Rows]:
        timed_by_it = self.options.word_times and not self.manner.tagged
        taps = {"pooled", BPE_TOTALS} if timed_by_it else set()
        taps |= {BPE_ENTROPIES, BPE_BEST} if self.manner.unseen else set()
        return self.model.run_hypothesis_head(encoded.final, encoded.blank, frozenset(taps))

    def _unseen(
        self, n: int, head: TokenResult[Rows] | None, draft: IntArray | None
    ) -> Said | None:
        """The text of a piece that is heard for sure, and need not be looked at."""
        if not self.manner.unseen or head is None or draft is None or not len(draft):
            return None
        count = len(draft)
        if count > self._budget(self.pieces[n]) or not is_sure(head.taps[BPE_ENTROPIES][n]):
            return None
        blank = self.model.hparams.draft.blank_id
        sure = run_probabilities(head.ids[n], head.taps[BPE_BEST][n], blank)
        return Said(tuple(draft.tolist()), tuple(sure.tolist()), End.FINISHED, unseen=count)

    def _seconds(self, piece: Piece) -> float:
        return len(piece.samples) / self.model.hparams.front_end.sample_rate

    def _budget(self, piece: Piece) -> int:
        if self.options.max_tokens is not None:
            return self.options.max_tokens
        return token_budget(self._seconds(piece), tagged=self.manner.tagged)

    def _heard(self, segment: Segment) -> float | None:
        """Letters of the hypothesis for each of the text that is no tag."""
        if not (self.model.has_head or self.model.known_characters) or self.manner.free:
            return None
        turns = segment.turns
        text = segment.text if turns is None else " ".join(turn.text for turn in turns)
        written = _letters(text)
        return _letters(segment.hypothesis) / written if written else None

    def _remarks(self, piece: Piece, said: Said, rows: int, segment: Segment) -> list[str]:
        """What a person should know of a text."""
        front, found = self.model.hparams.front_end, []
        begin, end = (at / front.sample_rate for at in piece.stretch)
        where = f"from {begin:.1f} to {end:.1f} s"
        if said.end is End.LOOP:
            found.append(
                f"{where} the model repeats itself without end; its text is cut there, and lacks "
                "what is said behind"
            )
        if said.end is End.BUDGET:
            found.append(
                f"{where} the text is cut after {len(said.tokens)} tokens; --max-tokens allows more"
            )
        heard, translated = segment.heard or 0.0, self.manner.translated_to is not None
        lost = _letters(segment.hypothesis) - _letters(segment.text)
        if said.end is End.FINISHED and heard > _MUCH and lost > _A_SENTENCE and not translated:
            found.append(
                f"{where} the model writes only {brief(segment.text)}, and the encoder hears "
                f"{brief(segment.hypothesis)}"
            )
        positions = self.model.hparams.llm.max_positions
        if rows + len(said.tokens) > positions:
            found.append(
                f"{where} prompt and text have {rows + len(said.tokens)} positions, and the model "
                f"names {positions}: shorter pieces may be understood better"
            )
        if self.manner.speakers and piece.follows and piece.before is None:
            found.append(
                f"{where} speakers are counted anew: the model tells them within a piece, and in "
                "what --context lets it hear again"
            )
        return found

    def _words(
        self,
        n: int,
        answer: Answer,
        mel: Rows,
        encoded: EncoderResult[Rows],
        head: TokenResult[Rows] | None,
    ) -> tuple[Word, ...]:
        """The words of a text, timed in the recording."""
        h, piece = self.model.hparams, self.pieces[n]
        frame = h.front_end.stride / h.front_end.sample_rate
        if self.manner.tagged:
            words = tagged_words(answer, self._seconds(piece))
        elif self.manner.spread:
            words = even_words(answer, self._seconds(piece) - piece.again / h.front_end.sample_rate)
        elif head is None:
            posteriors = characters.log_posteriors(
                self.model.known_characters, encoded.taps[characters.LOGITS][n]
            )
            heard = Heard(
                mel[n], encoded.blank[n], 1, characters.BLANK, lambda ids: posteriors[:, ids], frame
            )
            words = placed_words(answer, self._spelt_in_characters, heard)
        else:
            of_ids = partial(
                self.model.bpe_posteriors, head.taps["pooled"][n], head.taps[BPE_TOTALS][n]
            )
            window, blank_id = h.draft.pooling_window, h.draft.blank_id
            heard = Heard(mel[n], encoded.blank[n], window, blank_id, of_ids, frame)
            words = placed_words(answer, self._spelt_in_tokens, heard)
        begin = piece.start / h.front_end.sample_rate
        return tuple(word.later(begin) for word in words)

    def _spelt_in_characters(self, text: str, _: IntArray) -> Spellings:
        return character_spellings(self.model.known_characters, text)

    def _spelt_in_tokens(self, text: str, tokens: IntArray) -> Spellings:
        return token_spellings(self.model.hparams.draft, self.model.tokenizer, text, tokens)


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))
