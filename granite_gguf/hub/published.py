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
    Published(
        RECOMMENDED_REPOSITORY,
        "f16",
        "granite_nle",
        "editor F16, the rest F32",
        5.4,
    ),
    Published(
        RECOMMENDED_REPOSITORY,
        "q4_k",
        "granite_nle",
        "editor Q4_K, the rest F32",
        3.2,
        recommended=True,
    ),
    Published(
        RECOMMENDED_REPOSITORY, "q4_k-f16enc", "granite_nle", "editor Q4_K, encoder F16", 2.4
    ),
    Published(RECOMMENDED_REPOSITORY, "q4_k-mini", "granite_nle", "all Q4_K", 1.5),
    *(
        Published(_OTHER_REPOSITORY, name, "granite_speech_nar", description)
        for name, description in (
            ("BF16", "BF16"),
            ("F16", "F16"),
            ("Q8_0", "Q8_0"),
            ("Q6_K", "Q6_K"),
            ("Q5_K_M", "Q5_K_M"),
            ("Q4_K_M", "linears Q4_K, embedding Q6_K"),
        )
    ),
)
