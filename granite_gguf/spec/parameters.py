"""How a hyper-parameter is declared: once, beside its type.

    n_layers: Annotated[int, at("{arch}.enc.n_layers", "num_layers", "n_layers", most=256)]

Its key in our files, its name in a checkpoint's configuration, its name in transcribe.cpp's files,
and what it may be. Whoever reads a format asks for the names it has there, so that nothing else
lists the hyper-parameters again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from math import inf
from typing import Any, get_args, get_origin, get_type_hints

Shapes = Callable[[str], tuple[int, ...] | None]
"""The shape of a tensor by its name in our files, or None where there is no such tensor."""

SAME = "="
"""Stands for a name that is the field's own."""


@dataclass(frozen=True)
class Told:
    """Which dimension of which tensor tells a size that a file does not state.

    Attributes:
        tensor: its name in our files.
        dimension: of its shape in ggml order, without dimensions of length 1.
        size: what the dimension's length means, given the stage's values read so far.
    """

    tensor: str
    dimension: int
    size: Callable[[int, Mapping[str, Any]], int] = lambda length, _: length

    def __call__(self, shapes: Shapes, values: Mapping[str, Any]) -> int | None:
        """The size, or None where there is no such dimension."""
        lengths = [n for n in shapes(self.tensor) or () if n != 1]
        found = -len(lengths) <= self.dimension < len(lengths)
        return self.size(lengths[self.dimension], values) if found else None


Tell = Callable[[Shapes, Mapping[str, Any]], Any]
"""Tells a value from a file's tensors and from the stage's values read so far; None of none."""


@dataclass(frozen=True)
class Parameter:
    """A declared hyper-parameter.

    Attributes:
        name: the field's.
        type: of its values; ``tuple`` holds integers.
        default: the field's, or None.
        key: in our files; ``{arch}`` stands for the architecture's name.
        names: what other formats call it, by the format: ``json``, ``native``, ``stt``.
        least: what it is at least; None of a float means positive.
        most: what it is at most.
        later: whether files may lack the key, for it came later. It is then what ``told`` finds,
            or else ``absent``, which is what the first files meant.
        told: what tells it without the key.
        absent: what it is without key and telling; None where a file needs one of them.
    """

    name: str
    type: type
    default: Any
    key: str
    names: Mapping[str, str]
    least: float | None
    most: float
    later: bool
    told: Tell | None
    absent: Any

    def problem(self, value: Any) -> str | None:
        """What is expected in place of a value that is out of range; None of one in range."""
        if self.type not in (int, float):
            return None
        if self.least is None:
            return None if value > 0 else "a positive number"
        if self.least <= value <= self.most:
            return None
        return f"{self.least} to {self.most}" if self.most < inf else f"at least {self.least}"


Declaration = Callable[[str, type, Any], Parameter]


def at(
    key: str,
    json: str | None = None,
    stt: str | None = None,
    *,
    native: str | None = None,
    least: float | None = None,
    most: float = inf,
    later: bool = False,
    told: Tell | None = None,
    absent: Any = None,
) -> Declaration:
    """Declare a field, see :class:`Parameter`; integers are at least 1 unless ``least`` says else.

    Args:
        key: in our files.
        json: its name in a checkpoint's configuration.
        stt: its name in transcribe.cpp's files, behind the stage's prefix.
        native: its name in the configuration of the port to transformers, where it is another.
        least: the smallest value.
        most: the largest value.
        later: whether files may lack the key.
        told: what tells the value then.
        absent: the value where nothing tells it; by default the field's own default.
    """
    named = {"json": json, "native": native or json, "stt": stt}

    def declare(name: str, kind: type, default: Any) -> Parameter:
        names = {form: name if own == SAME else own for form, own in named.items() if own}
        lowest = 1 if kind is int and least is None else least
        lacking = default if absent is None else absent
        return Parameter(name, kind, default, key, names, lowest, most, later, told, lacking)

    return declare


def parameters(stage: Any) -> Iterator[Parameter]:
    """The hyper-parameters of a stage's class, a dataclass, in the order of its fields."""
    hints = get_type_hints(stage, include_extras=True)
    for field in fields(stage):
        kind, declare = get_args(hints[field.name])
        default = None if field.default is MISSING else field.default
        yield declare(field.name, get_origin(kind) or kind, default)
