"""What files of one architecture hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from granite_gguf.spec.checks import (
    Check,
    encoder_checks,
    first_problem,
    front_end_checks,
    out_of_range,
)
from granite_gguf.spec.hparams import HParams
from granite_gguf.spec.tables import encoder_tensors, front_end_tensors
from granite_gguf.spec.tensors import Table, TensorSpec

H = TypeVar("H", bound=HParams)


@dataclass(frozen=True)
class Format(Generic[H]):
    """The numbers and tensors of an architecture, as our own files hold them.

    Attributes:
        name: of the architecture, which is also what its metadata keys begin with.
        title: of the model, for messages.
        hparams: its hyper-parameters, a dataclass of stages.
        tables: the tensors behind the front end's and the encoder's, in file order.
        checks: what holds among its numbers, besides those of front end and encoder.
        fixed: further keys, of which the model has one value only.
        unused: tensors that files written elsewhere may hold besides, and that nothing reads.
        named: the numbers of a file with what it leaves open and its names tell.
    """

    name: str
    title: str
    hparams: type[H]
    tables: Callable[[H], Iterable[Table]]
    checks: Callable[[H], Iterable[Check]]
    fixed: Mapping[str, bool] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    named: Callable[[H, str], H] = lambda h, _names: h

    def key(self, key: str) -> str:
        """A metadata key of ours with the architecture's name in place of ``{arch}``."""
        return key.format(arch=self.name)

    def tensors(self, h: H) -> dict[str, TensorSpec]:
        """Every tensor a file with these hyper-parameters holds, in file order, by name."""
        tables = (front_end_tensors(h.front_end), encoder_tensors(h.encoder), *self.tables(h))
        return {spec.name: spec for table in tables for spec in table.specs}

    def problem(self, h: H) -> str | None:
        """What makes these hyper-parameters impossible to run, or None."""
        shared = (front_end_checks(h.front_end), encoder_checks(h.encoder, h.front_end))
        return out_of_range(h) or first_problem(chain(*shared, self.checks(h)))
