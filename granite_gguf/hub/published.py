"""The published GGUF files of the model that are known, as their publishers describe them.

None of them has been run by the authors of this package. Sizes are those that their publishers
state, rounded; nothing here was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

RECOMMENDED_REPOSITORY = "cstr/granite-speech-4.1-2b-nar-GGUF"
"""What ``auto`` stands for."""

RECOMMENDED_TYPES = ("Q4_K", "Q4_K_M")
"""The types taken where a repository has several files and none was named: its publisher recommends
the first, the second is that type's usual mixture."""


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        repository: ``owner/name``.
        selector: the part of the file's name that tells it from the others.
        architecture: the dialect it is written in.
        description: what is stored how.
        gigabytes: its stated size, None where none is stated.
        recommended: whether its publisher recommends it.
    """

    repository: str
    selector: str
    architecture: str
    description: str
    gigabytes: float | None = None
    recommended: bool = False

    @property
    def name(self) -> str:
        """What ``-m`` takes."""
        return f"{self.repository}:{self.selector}"


_OTHER_REPOSITORY = "handy-computer/granite-speech-4.1-2b-nar-gguf"

PUBLISHED = (
    *(
        Published(RECOMMENDED_REPOSITORY, kind, "granite_nle", text, size, kind == "q4_k")
        for kind, text, size in (
            ("f16", "editor F16, the rest F32", 5.4),
            ("q4_k", "editor Q4_K, the rest F32", 3.2),
            ("q4_k-f16enc", "editor Q4_K, encoder F16", 2.4),
            ("q4_k-mini", "all Q4_K", 1.5),
        )
    ),
    *(
        Published(_OTHER_REPOSITORY, kind, "granite_speech_nar", kind)
        for kind in ("BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M")
    ),
    Published(_OTHER_REPOSITORY, "Q4_K_M", "granite_speech_nar", "linears Q4_K, embedding Q6_K"),
)
