"""What a text is better without: words of noise, and those that the model is not sure of."""

from __future__ import annotations

from dataclasses import replace

from granite_gguf.errors import brief
from granite_gguf.transcript import Segment

# Where the encoder hears no speech by so much, a text is doubtful that is less sure than this.
_NO_SPEECH = ((0.5, 0.5), (0.98, 0.8))
# Of a text written token by token: a language model may make whole sentences of noise, rather sure
# of them.
_MADE_UP = 0.25
_NOT_SURE = 0.9


def without_doubtful(segment: Segment, least: float | None) -> Segment:
    """A segment, without its text where that is doubtful, of which a remark then tells.

    It is where the encoder hears no speech and the model is not sure of its words: both are needed,
    for a lone short word is little speech, and of much that is spoken in noise the model is not
    sure. Or where the encoder hears few of the letters that a language model writes.

    Args:
        segment: what the model made of a stretch of audio.
        least: the confidence below which a text is doubtful, too; 0 takes none for doubtful.
    """
    sure, silent = segment.confidence, segment.no_speech_prob
    if sure is None or silent is None or not segment.text.strip():
        return segment
    made_up = segment.heard is not None and segment.heard < _MADE_UP and sure < _NOT_SURE
    if least == 0:
        return segment
    if made_up or any(silent > by and sure < least_sure for by, least_sure in _NO_SPEECH):
        only = f"the encoder hears only {brief(segment.hypothesis)}, " if made_up else ""
        why = (
            f"it is probably no speech ({only}no_speech_prob {silent:.2f}, confidence {sure:.2f}); "
            "--min-confidence 0 keeps it"
        )
    elif least is not None and sure < least:
        why = f"its confidence is {sure:.2f}, expected {least:g} or more"
    else:
        return segment
    where = f"from {segment.start:.1f} to {segment.end:.1f} s"
    return replace(
        segment,
        text="",
        token_ids=(),
        words=None if segment.words is None else (),
        turns=None if segment.turns is None else (),
        remarks=(*segment.remarks, f"{where} {brief(segment.text.strip())} is left out: {why}"),
    )
