"""Whole recordings through the stages of a model, in as many passes as they need.

    stream of samples → pieces → features → encoder → hypothesis → projector → editor → segments

One pass takes what the editor's positions hold. A recording that fits is one pass, as upstream
does it. A longer one is cut at pauses into pieces of :data:`CHUNK_SECONDS`: the editor's attention
grows with the square of a piece, the first text comes after the first piece, and whatever is said
in one of that length fits. A piece that does not fit is cut again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from granite_gguf import audio, decoding, features
from granite_gguf.chunks import Samples, chunks
from granite_gguf.errors import AudioError, InputError
from granite_gguf.hparams import HParams
from granite_gguf.stage_results import EncoderResult
from granite_gguf.stages import AudioInput, Stages
from granite_gguf.transcript import Segment, Word
from granite_gguf.words import time_words, token_probabilities

CHUNK_SECONDS = 60.0
SHORTEST_CHUNK_SECONDS = 5.0  # the second half of a piece should have a pause between words
_UNSPLITTABLE_SECONDS = 0.2


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


def transcribe_source(
    model: Stages,
    source: AudioInput,
    options: Options,
    *,
    sample_rate: float | None = None,
    channel: int | None = None,
) -> Iterator[Segment]:
    """Transcribe a recording of any length; files are decoded as the work goes on.

    Arguments and errors are those of :meth:`granite_gguf.Model.transcribe`.
    """
    if isinstance(source, np.ndarray):
        samples = model.load_audio(source, sample_rate=sample_rate, channel=channel)
        yield from transcribe_blocks(model, iter([samples]), options)
        return
    if sample_rate is not None:
        raise InputError("sample_rate belongs to samples; a file has its own")
    wanted = model.hparams.front_end.sample_rate
    with audio.open_audio(source, wanted, channel=channel) as stream:
        yield from transcribe_blocks(model, stream.blocks, options)


def transcribe_blocks(
    model: Stages, blocks: Iterator[Samples], options: Options
) -> Iterator[Segment]:
    """Transcribe a stream of mono samples at the model's rate, piece by piece.

    Raises:
        AudioError: the stream is damaged.
        InputError: an option is out of range.
        OutOfMemoryError: a piece needs more memory than there is.
    """
    h = model.hparams
    check_options(h, options)
    rate, whole = h.front_end.sample_rate, longest_pass(h)
    longest = min(whole, int(rate * CHUNK_SECONDS))
    if options.chunk_seconds is not None:
        whole = longest = int(rate * options.chunk_seconds)
    index = 0
    pieces = chunks(blocks, rate=rate, longest=longest, whole=whole)
    while True:
        timings: dict[str, float] = {}
        with _timed(timings, "audio"):
            piece = next(pieces, None)
        if piece is None:
            return
        start, samples = piece
        for segment in _transcribe_piece(model, start, samples, longest, options, timings):
            yield replace(segment, index=index)
            index += 1


def _transcribe_piece(
    model: Stages,
    start: int,
    samples: Samples,
    longest: int,
    options: Options,
    timings: dict[str, float],
) -> Iterator[Segment]:
    """One pass, or several where the piece needs more positions than there are."""
    rate = model.hparams.front_end.sample_rate
    segment = _one_pass(model, start, samples, options, timings)
    if segment is not None:
        yield segment
        return
    longest = min(longest, len(samples) // 2)
    if longest < _UNSPLITTABLE_SECONDS * rate:
        raise AudioError(
            f"{len(samples) / rate:.2f} s of audio need more than the model's "
            f"{model.hparams.editor.max_positions} positions"
        )
    for offset, part in chunks(iter([samples]), rate=rate, longest=longest):
        yield from _transcribe_piece(model, start + offset, part, longest, options, timings)
        timings = {}


def _one_pass(
    model: Stages, start: int, samples: Samples, options: Options, timings: dict[str, float]
) -> Segment | None:
    """All stages on one piece; None where it needs too many positions."""
    h = model.hparams
    rate, limit = h.front_end.sample_rate, h.editor.max_positions
    begin, end = start / rate, (start + len(samples)) / rate
    frames = features.frame_count(h.front_end, len(samples))
    # What the editor could not take whatever was said does not reach the encoder.
    if frames // h.projector.downsample_rate + h.editor.min_edit_length > limit:
        return None
    if len(samples) > CHUNK_SECONDS * rate:
        model.check_room(frames)
    with _timed(timings, "features"):
        mel = model.compute_mel(samples)
    # Where nothing sounds nothing is said, whatever a model would make of it.
    if not len(mel) or samples.min() == samples.max():
        words: tuple[Word, ...] | None = () if options.word_times else None
        return Segment(0, begin, end, "", "", timings=timings, words=words)
    with _timed(timings, "encoder"):
        encoded = model.run_encoder(mel)
    with _timed(timings, "hypothesis"):
        tokens = model.run_hypothesis(encoded.final, encoded.blank)
        text_ids = decoding.insert_slots(h.editor, tokens)
    if len(mel) // h.projector.downsample_rate + len(text_ids) > limit:
        return None
    with _timed(timings, "projector"):
        audio_tokens = model.run_projector(encoded.captured)
    taps = frozenset({"editing_logits"}) if options.word_times else frozenset()
    with _timed(timings, "editor"):
        edited = model.run_editor(audio_tokens, text_ids, taps)
        final = decoding.edited_tokens(h.editor, edited.ids)
    words = None
    if options.word_times:
        with _timed(timings, "words"):
            sure = token_probabilities(h.editor, edited.ids, edited.taps["editing_logits"])
            words = _time_words(model, begin, mel, encoded, final, sure)
    return Segment(
        index=0,
        start=begin,
        end=end,
        text=model.detokenize(final),
        hypothesis=model.detokenize(tokens),
        token_ids=tuple(int(i) for i in final),
        timings=timings,
        words=words,
    )


def _time_words(
    model: Stages,
    begin: float,
    mel: npt.NDArray[np.float32],
    encoded: EncoderResult,
    tokens: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
) -> tuple[Word, ...]:
    front = model.hparams.front_end

    def head(first: int, last: int) -> npt.NDArray[np.float32]:
        part = slice(first, last)
        taps = frozenset({"bpe_logits"})
        result = model.run_hypothesis_head(encoded.final[part], encoded.blank[part], taps)
        return result.taps["bpe_logits"]

    words = time_words(
        model.hparams.hypothesis,
        model.tokenizer,
        tokens,
        probabilities,
        mel,
        encoded.blank,
        head,
        front.stride / front.sample_rate,
    )
    return tuple(replace(w, start=begin + w.start, end=begin + w.end) for w in words)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
