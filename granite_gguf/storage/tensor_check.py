"""Checks a file's tensors against a table of expected ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from granite_gguf.errors import ModelFileError
from granite_gguf.ggml.types import GGMLType
from granite_gguf.spec.tensors import TensorSpec
from granite_gguf.storage.container import Container

WEIGHT_TYPES = frozenset(
    {
        GGMLType.F32,
        GGMLType.F16,
        GGMLType.BF16,
        GGMLType.Q8_0,
        GGMLType.Q6_K,
        GGMLType.Q5_K,
        GGMLType.Q4_K,
        GGMLType.Q3_K,
        GGMLType.Q2_K,
        GGMLType.Q5_0,
        GGMLType.Q5_1,
        GGMLType.Q4_0,
        GGMLType.Q4_1,
        GGMLType.IQ4_NL,
        GGMLType.IQ4_XS,
    }
)


def check_tensors(
    container: Container, expected: Iterable[TensorSpec], unused: Collection[str] = ()
) -> None:
    """Compare a file's tensors with those expected, by the names they have there.

    Args:
        container: the file.
        expected: what it must hold.
        unused: what it may hold besides.

    Raises:
        ModelFileError: some are missing, left over, misshapen, or of a type that cannot be run.
    """
    specs, tensors = {spec.name: spec for spec in expected}, container.tensors
    problems: list[str] = []

    def note(names: list[str], what: str) -> None:
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            problems.append(f"{what}: {shown}")

    note([name for name in specs if name not in tensors], "tensors are missing")
    unknown = [name for name in tensors if name not in specs and name not in unused]
    note(unknown, "tensors are not part of the format")
    both = [(tensors[name], spec) for name, spec in specs.items() if name in tensors]
    note(
        [
            f"{info.name} {list(info.shape)} instead of {list(spec.shape)}"
            for info, spec in both
            if not spec.accepts(info.shape)
        ],
        "tensors have another shape than the metadata says",
    )
    note(
        [f"{info.name} {info.type.name}" for info, _ in both if info.type not in WEIGHT_TYPES],
        "tensors have types that cannot be run",
    )
    if problems:
        raise ModelFileError(f"{container.path}: {'; '.join(problems)}")
