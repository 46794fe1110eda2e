"""What a transcription returns: words in segments in a transcript."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

_MILLISECONDS = 3  # decimals of the times in plain values


@dataclass(frozen=True)
class Word:
    """A word of the transcript and where it is said.

    Attributes:
        text: the word with its punctuation, without white space.
        start: where it begins, in seconds from the start of the recording.
        end: where it ends.
        probability: the language model's, of the least sure of its tokens; the encoder's where the
            language model did not look at it.
        aligned: whether the encoder heard it, or the model told when. Where it did not, because the
            word was put in by the language model, the times are those of the gap it must lie in.
        speaker: who says it, where that was asked for.
    """

    text: str
    start: float
    end: float
    probability: float
    aligned: bool = True
    speaker: str | None = None

    def later(self, seconds: float) -> Word:
        """The same word in a recording that begins so much earlier."""
        return replace(self, start=seconds + self.start, end=seconds + self.end)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON.

        >>> Word("hello", 0.52, 0.88, 0.987).to_dict()
        {'word': 'hello', 'start': 0.52, 'end': 0.88, 'probability': 0.987, 'aligned': True}
        """
        values = {
            "word": self.text,
            "start": round(self.start, _MILLISECONDS),
            "end": round(self.end, _MILLISECONDS),
            "probability": _rounded(self.probability),
            "aligned": self.aligned,
        }
        return values if self.speaker is None else {**values, "speaker": self.speaker}


@dataclass(frozen=True)
class Turn:
    """What one speaker says without a break.

    Attributes:
        speaker: ``Speaker 1``, or None where the model tells nobody.
        text: what is said.
    """

    speaker: str | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"speaker": self.speaker, "text": self.text}


@dataclass(frozen=True)
class Decoding:
    """What it took to write a text token by token.

    Attributes:
        steps: passes of the language model, the prompt's not among them.
        guessed: tokens of a draft that were looked at.
        accepted: those of them that were right.
        unseen: tokens of a draft that were taken without looking, with ``--precision fast``.
    """

    steps: int
    guessed: int
    accepted: int
    unseen: int = 0

    def __str__(self) -> str:
        """In words, for a person.

        >>> print(Decoding(steps=12, guessed=40, accepted=29))
        12 steps; 29 of the draft's 40 guesses were right
        """
        unseen = f", {self.unseen} tokens were taken without looking" if self.unseen else ""
        return (
            f"{self.steps} steps; {self.accepted} of the draft's {self.guessed} guesses were right"
            f"{unseen}"
        )

    @classmethod
    def sum(cls, parts: Iterable[Decoding]) -> Decoding:
        """What it took for several texts."""
        return cls(*map(sum, zip(*map(astuple, parts), strict=True)))


@dataclass(frozen=True)
class Segment:
    """What one pass of the model made of one stretch of audio.

    Attributes:
        index: its number in the recording, from 0.
        start: where the stretch begins, in seconds.
        end: where it ends; the next segment begins there.
        text: what is said; from the NAR models exactly as decoded, from others without spaces at
            its ends and without the tags that tell times.
        hypothesis: the encoder's first hypothesis.
        token_ids: the transcript's tokens.
        timings: seconds spent in each stage.
        words: the words, or None where their times were not asked for.
        turns: who says what, or None where that was not asked for.
        translated_to: the language of the text, by its English name, where it was translated.
        language: that of the speech, as it was said to be.
        decoding: what it took to write the text, where it was written token by token.
        remarks: what a person should know of it, such as that the text was cut short.
        complete: whether it is all that the model had to say.
        channel: whose sound it is, 1 the first, where channels were told apart. Segments of others
            may then begin before it ends, or after a pause.
        confidence: how sure the model is of its text, from 0 to 1: the geometric mean of its
            tokens' probabilities. None without a text.
        no_speech_prob: the probability that nobody speaks, by the encoder where it hears most:
            the mean of its blank in the three frames that have least of it; 1 where nothing sounds.
        heard: letters of the hypothesis for each of the text, where that was written token by
            token: nearly none where words are made of noise, many where it ends too early. None
            without a text, and where nothing is known of the encoder's letters.
    """

    index: int
    start: float
    end: float
    text: str
    hypothesis: str
    token_ids: tuple[int, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    words: tuple[Word, ...] | None = None
    turns: tuple[Turn, ...] | None = None
    translated_to: str | None = None
    decoding: Decoding | None = None
    remarks: tuple[str, ...] = ()
    complete: bool = True
    channel: int | None = None
    language: str | None = None
    confidence: float | None = None
    no_speech_prob: float | None = None
    heard: float | None = None

    def of_channel(self, channel: int | None) -> Segment:
        """The same segment as what was heard on a channel, which is its words' speaker."""
        if channel is None or self.words is None:
            return replace(self, channel=channel)
        words = tuple(replace(word, speaker=_channel_name(channel)) for word in self.words)
        return replace(self, channel=channel, words=words)

    @property
    def labelled(self) -> str:
        """The text, behind the channel where that is known."""
        if self.channel is None or not self.text.strip():
            return self.text
        return f"{_channel_name(self.channel)}: {self.text.strip()}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values: dict[str, Any] = {
            "id": self.index,
            "start": round(self.start, _MILLISECONDS),
            "end": round(self.end, _MILLISECONDS),
            "text": self.text,
            "confidence": _rounded(self.confidence),
            "no_speech_prob": _rounded(self.no_speech_prob),
        }
        if self.channel is not None:
            values["channel"] = self.channel
        if self.turns is not None:
            values["turns"] = [turn.to_dict() for turn in self.turns]
        if self.words is not None:
            values["words"] = [word.to_dict() for word in self.words]
        if self.remarks:
            values["remarks"] = list(self.remarks)
        return values


@dataclass(frozen=True)
class Transcript:
    """The text of one recording.

    Attributes:
        text: that of its segments, with a space between them.
        hypothesis: the encoder's first hypothesis.
        duration: seconds of audio; of channels told apart, from the first sound to the last.
        timings: seconds spent in each stage.
        token_ids: the transcript's tokens.
        segments: the passes it was made in, in the order in which they begin.
    """

    text: str
    hypothesis: str
    duration: float
    timings: dict[str, float] = field(default_factory=dict)
    token_ids: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> Transcript:
        """The segments of one recording as a whole.

        >>> parts = [Segment(0, 0.0, 9.5, "good morning", ""), Segment(1, 9.5, 14.0, "to all", "")]
        >>> Transcript.of(parts).text
        'good morning to all'
        """
        parts = tuple(segments)
        timings: dict[str, float] = {}
        for part in parts:
            for stage, seconds in part.timings.items():
                timings[stage] = timings.get(stage, 0.0) + seconds
        return cls(
            text=joined([part.text for part in parts]),
            hypothesis=joined([part.hypothesis for part in parts]),
            duration=_span(parts),
            timings=timings,
            token_ids=tuple(token for part in parts for token in part.token_ids),
            segments=parts,
        )

    @property
    def labelled(self) -> str:
        """The text, behind the channel at each segment where that is known."""
        return joined(part.labelled for part in self.segments)

    @property
    def voices(self) -> tuple[tuple[Word, ...], ...]:
        """The words with their times, those of each channel where these were told apart."""
        channels = sorted({part.channel or 0 for part in self.segments})
        return tuple(
            tuple(w for part in self.segments if (part.channel or 0) == n for w in part.words or ())
            for n in channels
        )

    @property
    def words(self) -> tuple[Word, ...]:
        """All words with their times; empty where these were not asked for."""
        return tuple(word for segment in self.segments for word in segment.words or ())

    @property
    def translated_to(self) -> str | None:
        """The language of the text, by its English name, where it was translated."""
        return next((part.translated_to for part in self.segments if part.translated_to), None)

    @property
    def language(self) -> str | None:
        """The language of the text: the one it was translated into, or the one that is spoken.

        The latter is known where the caller told it.
        """
        spoken = next((part.language for part in self.segments if part.language), None)
        return self.translated_to or spoken

    @property
    def decoding(self) -> Decoding | None:
        """What it took to write the text, where it was written token by token."""
        parts = [part.decoding for part in self.segments if part.decoding is not None]
        return Decoding.sum(parts) if parts else None

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio processed in a second; 0 for empty audio."""
        spent = sum(self.timings.values())
        return self.duration / spent if spent else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; the language where it is known."""
        language = self.language
        return {
            "task": "transcribe" if self.translated_to is None else "translate",
            **({} if language is None else {"language": language}),
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "hypothesis": self.hypothesis,
            "duration": self.duration,
            "timings": dict(self.timings),
            "token_ids": list(self.token_ids),
        }


def _channel_name(channel: int) -> str:
    return f"Channel {channel}"


def _span(parts: Sequence[Segment]) -> float:
    """Seconds from the first beginning to the last end."""
    if not parts:
        return 0.0
    return max(part.end for part in parts) - min(part.start for part in parts)


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def joined(texts: Iterable[str]) -> str:
    """Texts with one space between them, unless a side of the joint brings its own."""
    whole = ""
    for text in texts:
        if whole and text and not whole[-1].isspace() and not text[0].isspace():
            whole += " "
        whole += text
    return whole
