"""Whole recordings through a model, in as many passes as they need.

    stream of samples → pieces → one pass of each → segments

One pass takes what the editor's positions hold. A recording that fits is one pass, as upstream
does it. A longer one is cut at pauses into pieces of :data:`CHUNK_SECONDS`: the editor's attention
grows with the square of a piece, the first text comes after the first piece, and whatever is said
in one of that length fits. A piece that does not fit is cut again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from granite_gguf.errors import AudioError, InputError
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import Stages
from granite_gguf.nar.transcribe import longest_pass, one_pass
from granite_gguf.passes import Options, Piece, Vad
from granite_gguf.sound.pieces import chunks, spoken
from granite_gguf.sound.reading import AudioStream
from granite_gguf.sound.silence import Loudness
from granite_gguf.sound.source import Source
from granite_gguf.transcript import Segment

CHUNK_SECONDS = 60.0
SHORTEST_CHUNK_SECONDS = 5.0  # the second half of a piece should have a pause between words
_UNSPLITTABLE_SECONDS = 0.2


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


def transcribe_source(model: Stages, source: Source, options: Options) -> Iterator[Segment]:
    """Transcribe a recording of any length; files are decoded as the work goes on.

    Errors are those of :meth:`granite_gguf.Model.transcribe`.
    """
    check_options(model.hparams, options)
    longest = _longest_piece(model.hparams, options)
    index = 0
    with source.open(model.hparams.front_end.sample_rate) as stream:
        pieces = _pieces(model, stream, options)
        while True:
            started = time.perf_counter()
            piece = next(pieces, None)
            timings = {"audio": time.perf_counter() - started}
            if piece is None:
                return
            piece = replace(piece, timings=timings)
            for segment in _transcribe_piece(model, piece, longest, options):
                yield replace(segment, index=index)
                index += 1


def read_whole(model: Stages, source: Source, options: Options) -> Piece | None:
    """Read a recording that is a single piece; None where it is not.

    Raises:
        AudioError: the recording cannot be read.
    """
    started = time.perf_counter()
    with source.open(model.hparams.front_end.sample_rate) as stream:
        pieces = list(islice(_pieces(model, stream, options), 2))
    timings = {"audio": time.perf_counter() - started}
    return replace(pieces[0], timings=timings) if len(pieces) == 1 else None


def _pieces(model: Stages, stream: AudioStream, options: Options) -> Iterator[Piece]:
    """What of a recording goes through the model, piece by piece."""
    rate = model.hparams.front_end.sample_rate
    longest = _longest_piece(model.hparams, options)
    whole = longest_pass(model.hparams)
    if options.chunk_seconds is not None:
        whole = int(rate * options.chunk_seconds)
    if stream.live:
        found = spoken(stream.blocks, rate=rate, longest=longest)
    else:
        found = chunks(stream.blocks, rate=rate, longest=longest, whole=whole)
    loudness = Loudness(rate)
    for start, samples in found:
        if options.vad is Vad.OFF:
            yield Piece(start, samples)
            continue
        for begin, first, last, end in loudness.stretches(samples):
            within = (start + begin, start + end)
            yield Piece(start + first, samples[first:last], within=within)


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
        start = piece.start + offset
        begin = piece.stretch[0] if offset == 0 else start
        end = start + len(part)
        if offset + len(part) == len(samples):
            end = piece.stretch[1]
        yield from _transcribe_piece(
            model, Piece(start, part, timings, (begin, end)), longest, options
        )
        timings = {}
