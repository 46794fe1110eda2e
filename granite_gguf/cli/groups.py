"""Options that belong together, declared once as the fields of a dataclass.

    @command
    def listen(*, microphone: Microphone = None, loading: Loading) -> None: ...

has ``--microphone``, and an option for each field of ``Loading``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def command(function: Callable[..., None]) -> Callable[..., None]:
    """What typer takes for a command: each parameter that is a dataclass as its fields."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    found = signature(function).parameters.values()
    parameters = [one for of in found for one in _expanded(of, hints[of.name])]

    @wraps(function)
    def run(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        function(**given)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {of.name: of.annotation for of in parameters}
    return run


def _expanded(of: Parameter, kind: Any) -> Iterator[Parameter]:
    """A parameter, or one for each field of the dataclass that it is."""
    if not is_dataclass(kind):
        yield of.replace(annotation=kind, kind=Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        yield Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=hints[field.name],
        )


def _default(field: Field[Any]) -> Any:
    return Parameter.empty if field.default is MISSING else field.default
