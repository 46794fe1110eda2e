"""What files of one architecture hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from granite_gguf.spec.hparams import HParams
from granite_gguf.spec.tensors import TensorSpec

H = TypeVar("H", bound=HParams)


@dataclass(frozen=True)
class Format(Generic[H]):
    """The numbers and tensors of an architecture, as our own files hold them.

    Attributes:
        name: of the architecture, which is also what its metadata keys begin with.
        title: of the model, for messages.
        hparams: its hyper-parameters, a dataclass of stages.
        tensors: every tensor of a model with these numbers, in file order, by name.
        problem: what makes numbers impossible to run, or None.
        fixed: further keys, of which the model has one value only.
        unused: tensors that files written elsewhere may hold besides, and that nothing reads.
    """

    name: str
    title: str
    hparams: type[H]
    tensors: Callable[[H], dict[str, TensorSpec]]
    problem: Callable[[H], str | None]
    fixed: Mapping[str, bool] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()

    def key(self, key: str) -> str:
        """A metadata key of ours with the architecture's name in place of ``{arch}``."""
        return key.format(arch=self.name)
