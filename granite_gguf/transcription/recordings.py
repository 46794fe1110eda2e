"""Whole recordings through the stages of a model, in as many passes as they need.

    stream of samples → pieces → features → encoder → hypothesis → projector → editor → segments

One pass takes what the editor's positions hold. A recording that fits is one pass, as upstream
does it. A longer one is cut at pauses into pieces of :data:`CHUNK_SECONDS`: the editor's attention
grows with the square of a piece, the first text comes after the first piece, and whatever is said
in one of that length fits. A piece that does not fit is cut again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from granite_gguf.arrays import FloatArray, IntArray, Samples
from granite_gguf.errors import AudioError, InputError
from granite_gguf.nar import decoding
from granite_gguf.nar.results import EncoderResult
from granite_gguf.nar.stages import AudioInput, Stages
from granite_gguf.sound import features, reading
from granite_gguf.sound.pieces import chunks
from granite_gguf.spec.nar import HParams
from granite_gguf.transcript import Segment, Word
from granite_gguf.words.times import time_words, token_probabilities

CHUNK_SECONDS = 60.0
SHORTEST_CHUNK_SECONDS = 5.0  # the second half of a piece should have a pause between words
_UNSPLITTABLE_SECONDS = 0.2


@dataclass(frozen=True)
class Piece:
    """Part of a recording.

    Attributes:
        start: its first sample's number in the recording.
        samples: mono, at the model's rate.
        timings: seconds spent on it by stage, which are filled in.
    """

    start: int
    samples: Samples
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What to compute.

    Attributes:
        chunk_seconds: the longest piece; by default one pass takes what fits in it, and pieces of
            longer recordings have at most :data:`CHUNK_SECONDS`.
        word_times: whether to time words and tell their probabilities.
    """

    chunk_seconds: float | None = None
    word_times: bool = False


def longest_pass(h: HParams) -> int:
    """Samples that one pass takes if nothing is said in them: an upper bound."""
    tokens = h.editor.max_positions - h.editor.min_edit_length
    frames = (tokens + 1) * h.projector.downsample_rate - 1
    samples = (frames + 1) * h.front_end.stride - 1
    return samples - h.front_end.stride if h.front_end.pad_last_frame else samples


def check_options(h: HParams, options: Options) -> None:
    """Refuse what the model cannot do.

    Raises:
        InputError: the length of pieces is out of range.
    """
    longest = longest_pass(h) / h.front_end.sample_rate
    seconds = options.chunk_seconds
    if seconds is not None and not SHORTEST_CHUNK_SECONDS <= seconds <= longest:
        raise InputError(
            f"pieces of {seconds:g} s are asked for, expected {SHORTEST_CHUNK_SECONDS:g} to "
            f"{int(longest)} s: shorter ones may have no pause to be cut at, and longer ones do "
            f"not fit in the model's {h.editor.max_positions} positions"
        )


@dataclass(frozen=True)
class Source:
    """A recording, and how to read it; the fields are arguments of ``Model.transcribe``."""

    audio: AudioInput
    sample_rate: float | None = None
    channel: int | None = None


def transcribe_source(model: Stages, source: Source, options: Options) -> Iterator[Segment]:
    """Transcribe a recording of any length; files are decoded as the work goes on.

    Errors are those of :meth:`granite_gguf.Model.transcribe`.
    """
    check_options(model.hparams, options)
    longest = _longest_piece(model.hparams, options)
    index = 0
    with _blocks(model, source) as blocks:
        pieces = _pieces(model, blocks, options)
        while True:
            timings: dict[str, float] = {}
            with _timing(timings, "audio"):
                piece = next(pieces, None)
            if piece is None:
                return
            for segment in _transcribe_piece(model, Piece(*piece, timings), longest, options):
                yield replace(segment, index=index)
                index += 1


def read_whole(model: Stages, source: Source, options: Options) -> Piece | None:
    """Read a recording that is a single piece; None where it is not.

    Raises:
        AudioError: the recording cannot be read.
    """
    timings: dict[str, float] = {}
    with _timing(timings, "audio"), _blocks(model, source) as blocks:
        pieces = list(islice(_pieces(model, blocks, options), 2))
    return Piece(*pieces[0], timings) if len(pieces) == 1 else None


@contextmanager
def _blocks(model: Stages, source: Source) -> Iterator[Iterator[Samples]]:
    """A recording's mono samples at the model's rate, block by block."""
    if isinstance(source.audio, np.ndarray):
        rate, channel = source.sample_rate, source.channel
        yield iter([model.load_audio(source.audio, sample_rate=rate, channel=channel)])
        return
    if source.sample_rate is not None:
        raise InputError("sample_rate belongs to samples; a file has its own")
    wanted = model.hparams.front_end.sample_rate
    with reading.open_audio(source.audio, wanted, channel=source.channel) as stream:
        yield stream.blocks


def _pieces(
    model: Stages, blocks: Iterator[Samples], options: Options
) -> Iterator[tuple[int, Samples]]:
    """The pieces of a stream, and the samples before each."""
    rate = model.hparams.front_end.sample_rate
    whole = longest_pass(model.hparams)
    if options.chunk_seconds is not None:
        whole = int(rate * options.chunk_seconds)
    return chunks(blocks, rate=rate, longest=_longest_piece(model.hparams, options), whole=whole)


def _longest_piece(h: HParams, options: Options) -> int:
    """Samples of a piece where a recording is several."""
    if options.chunk_seconds is not None:
        return int(h.front_end.sample_rate * options.chunk_seconds)
    return min(longest_pass(h), int(h.front_end.sample_rate * CHUNK_SECONDS))


def _transcribe_piece(
    model: Stages, piece: Piece, longest: int, options: Options
) -> Iterator[Segment]:
    """One pass, or several where the piece needs more positions than there are."""
    rate = model.hparams.front_end.sample_rate
    (segment,) = one_pass(model, [piece], options)
    if segment is not None:
        yield segment
        return
    samples = piece.samples
    longest = min(longest, len(samples) // 2)
    if longest < _UNSPLITTABLE_SECONDS * rate:
        raise AudioError(
            f"{len(samples) / rate:.2f} s of audio need more than the model's "
            f"{model.hparams.editor.max_positions} positions"
        )
    timings = piece.timings
    for offset, part in chunks(iter([samples]), rate=rate, longest=longest):
        yield from _transcribe_piece(
            model, Piece(piece.start + offset, part, timings), longest, options
        )
        timings = {}


def one_pass(model: Stages, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
    """All stages on pieces of one or several recordings, together.

    Each gets what it would get alone; seconds are shared out by its length.

    Returns:
        A segment of index 0 for each piece, or None where it needs too many positions.

    Raises:
        AudioError: a piece cannot be transcribed.
    """
    found: list[Segment | None] = [None] * len(pieces)
    work = []
    for n, piece in enumerate(pieces):
        mel = _features(model, piece)
        if mel is not None and not len(mel):
            found[n] = _segment(model, piece, options)
        elif mel is not None:
            work.append(_Work(n, piece, mel))
    if work:
        _run_stages(model, work, options, found)
    return found


@dataclass
class _Work:
    """A piece on its way through the stages."""

    index: int
    piece: Piece
    mel: FloatArray
    encoded: EncoderResult = field(init=False)
    hypothesis: IntArray = field(init=False)
    text_ids: IntArray = field(init=False)


def _features(model: Stages, piece: Piece) -> FloatArray | None:
    """Log-mel frames; none where nothing sounds, and None where they are too many."""
    h, samples = model.hparams, piece.samples
    frames = features.frame_count(h.front_end, len(samples))
    # What the editor could not take whatever was said does not reach the encoder.
    if frames // h.projector.downsample_rate + h.editor.min_edit_length > h.editor.max_positions:
        return None
    if len(samples) > CHUNK_SECONDS * h.front_end.sample_rate:
        model.check_room(frames)
    with _timing(piece.timings, "features"):
        mel = model.compute_mel(samples)
    # Where nothing sounds nothing is said, whatever a model would make of it.
    return mel if len(mel) and samples.min() != samples.max() else mel[:0]


def _run_stages(
    model: Stages, work: list[_Work], options: Options, found: list[Segment | None]
) -> None:
    """Fill in what is found of each piece."""
    editor, rate = model.hparams.editor, model.hparams.projector.downsample_rate
    with _timed(work, "encoder"):
        for one, encoded in zip(work, model.run_encoders([one.mel for one in work]), strict=True):
            one.encoded = encoded
    with _timed(work, "hypothesis"):
        states = [(one.encoded.final, one.encoded.blank) for one in work]
        for one, tokens in zip(work, model.run_hypotheses(states), strict=True):
            one.hypothesis, one.text_ids = tokens, decoding.insert_slots(editor, tokens)
    work = [w for w in work if len(w.mel) // rate + len(w.text_ids) <= editor.max_positions]
    if not work:
        return
    with _timed(work, "projector"):
        audio_tokens = model.run_projectors([one.encoded.captured for one in work])
    taps = frozenset({"editing_logits"}) if options.word_times else frozenset()
    with _timed(work, "editor"):
        text_ids = [one.text_ids for one in work]
        results = model.run_editors(list(zip(audio_tokens, text_ids, strict=True)), taps)
    for one, result in zip(work, results, strict=True):
        final = decoding.edited_tokens(editor, result.ids)
        words = None
        if options.word_times:
            with _timed([one], "words"):
                sure = token_probabilities(editor, result.ids, result.taps["editing_logits"])
                words = _time_words(model, one, final, sure)
        found[one.index] = replace(
            _segment(model, one.piece, options),
            text=model.detokenize(final),
            hypothesis=model.detokenize(one.hypothesis),
            token_ids=tuple(int(i) for i in final),
            words=words,
        )


def _segment(model: Stages, piece: Piece, options: Options) -> Segment:
    """The segment of a piece in which nothing is said."""
    rate = model.hparams.front_end.sample_rate
    end = piece.start + len(piece.samples)
    words: tuple[Word, ...] | None = () if options.word_times else None
    return Segment(0, piece.start / rate, end / rate, "", "", timings=piece.timings, words=words)


def _time_words(
    model: Stages, work: _Work, tokens: IntArray, probabilities: FloatArray
) -> tuple[Word, ...]:
    front, encoded = model.hparams.front_end, work.encoded

    def head(first: int, last: int) -> FloatArray:
        part = slice(first, last)
        taps = frozenset({"bpe_logits"})
        result = model.run_hypothesis_head(encoded.final[part], encoded.blank[part], taps)
        return result.taps["bpe_logits"]

    begin = work.piece.start / front.sample_rate
    words = time_words(
        model.hparams.hypothesis,
        model.tokenizer,
        tokens,
        probabilities,
        work.mel,
        encoded.blank,
        head,
        front.stride / front.sample_rate,
    )
    return tuple(replace(w, start=begin + w.start, end=begin + w.end) for w in words)


@contextmanager
def _timing(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start


@contextmanager
def _timed(work: Sequence[_Work], stage: str) -> Iterator[None]:
    """Share out what a stage of several pieces takes by their frames."""
    spent: dict[str, float] = {}
    with _timing(spent, stage):
        yield
    frames = sum(len(one.mel) for one in work)
    for one in work:
        timings = one.piece.timings
        timings[stage] = timings.get(stage, 0.0) + spent[stage] * len(one.mel) / frames
