"""What a transcription returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Transcript:
    """The text of one recording.

    Attributes:
        text: the edited transcript, exactly as decoded.
        hypothesis: the encoder's first hypothesis, before editing.
        duration: seconds of audio.
        timings: seconds spent in each stage.
        token_ids: the transcript's tokens.
    """

    text: str
    hypothesis: str
    duration: float
    timings: dict[str, float] = field(default_factory=dict)
    token_ids: tuple[int, ...] = ()

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio processed in a second; 0 for empty audio."""
        spent = sum(self.timings.values())
        return self.duration / spent if spent else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"token_ids": list(self.token_ids)}
