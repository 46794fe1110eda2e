"""The published GGUF files of the family that are known, as their publishers describe them.

None of them has been run by the authors of this package. Sizes are those that their publishers
state, or that follow from their tensors' shapes and types, rounded; nothing here was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        gigabytes: its size, None where it is not known.
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


_NAR = (
    ("f16", "editor F16, the rest F32", 5.4),
    ("q4_k", "editor Q4_K, the rest F32", 3.2),
    ("q4_k-f16enc", "editor Q4_K, encoder F16", 2.4),
    ("q4_k-mini", "all Q4_K", 1.5),
)
_F16, _Q4 = "language model F16, the rest F32", "language model Q4_K, the rest F32"
_THIRD = {
    "3.3-2b": ("f16", "q8_0", "q5_0", "q4_k"),
    "3.3-8b": ("q8_0", "q5_0", "q4_k"),
    "3.2-8b": ("q8_0", "q5_0", "q4_k"),
}
_CRISPASR = {
    "granite-speech-4.1-2b": (
        ("f16", _F16, 5.58),
        ("q4_k", _Q4, 2.94),
        ("q4_k-f16enc", "language model Q4_K, encoder F16", 2.07),
        ("q4_k-mini", "all Q4_K", 1.65),
    ),
    "granite-speech-4.1-2b-plus": (
        ("f16", _F16, 5.6),
        ("q4_k", _Q4, 2.96),
        ("q4_k-f16enc", "language model Q4_K, encoder F16", 2.28),
        ("q4_k-mini", "all Q4_K", 1.66),
    ),
    "granite-speech-4.0-1b": (
        ("f16", _F16, 5.58),
        ("q8_0", "language model Q8_0, the rest F32", None),
        ("q5_0", "language model Q5_0, the rest F32", None),
        ("q4_k", _Q4, 2.94),
    ),
    **{
        f"granite-speech-{variant}": tuple(
            (kind, f"language model {kind.upper()}, perhaps without its adapter", None)
            for kind in kinds
        )
        for variant, kinds in _THIRD.items()
    },
}
_MIXED = "linears Q4_K, embedding Q6_K"
_TRANSCRIBE_CPP = {
    "granite-speech-4.1-2b": (4.63, 4.63, 2.56, 2.02, 1.83, 1.6),
    "granite-speech-4.1-2b-plus": (None,) * 6,
    "granite-4.0-1b-speech": (4.63, 4.63, 2.56, 2.02, 1.83, 1.6),
}
_KINDS = ("BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")


def _of(
    repository: str, architecture: str, files: Iterable[tuple[str, str, float | None]]
) -> Iterator[Published]:
    known = "-speech-3." not in repository  # the others' publisher says which he recommends
    for kind, description, gigabytes in files:
        yield Published(
            repository, kind, architecture, description, gigabytes, kind == "q4_k" and known
        )


def _all() -> Iterator[Published]:
    yield from _of(RECOMMENDED_REPOSITORY, "granite_nle", _NAR)
    kinds = [(kind, _MIXED if kind == "Q4_K_M" else kind) for kind in _KINDS]
    nar = "handy-computer/granite-speech-4.1-2b-nar-gguf"
    yield from _of(nar, "granite_speech_nar", ((*kind, None) for kind in kinds))
    for model, files in _CRISPASR.items():
        yield from _of(f"cstr/{model}-GGUF", "granite_speech", files)
    for model, sizes in _TRANSCRIBE_CPP.items():
        described = ((*kind, size) for kind, size in zip(kinds, sizes, strict=True))
        yield from _of(f"handy-computer/{model}-gguf", "granite_speech", described)
    for model in ("granite-speech-4.1-2b", "granite-speech-4.1-2b-plus"):
        for kind in ("Q8_0", "Q4_K_M"):
            text = f"{kind}; mmproj-model-f16.gguf, encoder and projector in F16, comes along"
            yield Published(f"ibm-granite/{model}-GGUF", kind, "granite", text)


PUBLISHED = tuple(_all())
