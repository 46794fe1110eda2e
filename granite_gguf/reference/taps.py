"""Models of transformers, and hooks on their modules for their stages.

The hooks sit on modules, not on the model's outputs, because the names of modules are fixed by the
tensors of the checkpoint and the outputs' names are not. A module that is missing, or is never
called, is an error that names it. A module used outside its own `forward` cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from granite_gguf import errors


class Taps:
    """Remembers what goes into and comes out of modules, call by call.

    Args:
        model: has them.
        places: where each may be, by a name for it; that of `layers` has one for every layer.

    Raises:
        granite_gguf.errors.CheckpointError: one is in none of its places.
    """

    def __init__(self, model: nn.Module, places: Mapping[str, Sequence[str]]) -> None:
        self._places = places
        self.modules = {name: _find(model, found) for name, found in places.items()}
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        watched = dict(self.modules)
        layers = watched.pop("layers")
        watched |= {f"layer {n}": layer for n, layer in layers.named_children()}
        self.handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in watched.items()
        ]

    def _hook(self, name: str) -> Any:
        def remember(
            _m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            given = _first_tensor([*args, *kwargs.values()])
            made = _first_tensor([out])
            if given is not None:
                self.inputs.setdefault(name, []).append(given.detach().clone())
            if made is not None:
                self.outputs.setdefault(name, []).append(made.detach().clone())

        return remember

    def close(self) -> None:
        """Remember nothing more."""
        for handle in self.handles:
            handle.remove()

    def seen(self, calls: dict[str, list[Tensor]], name: str, which: int) -> Tensor:
        """A tensor of the first (0) or last (-1) call, of the first utterance."""
        if name not in calls:
            raise errors.CheckpointError(
                f"the upstream model never called its module {name!r} "
                f"({self._places.get(name, name)}) as a module: this stage cannot be recorded; "
                "leave out --upstream"
            )
        return calls[name][which]


def import_transformers() -> Any:
    """The library.

    Raises:
        granite_gguf.errors.MissingExtraError: it is not installed.
    """
    try:
        import transformers  # noqa: PLC0415 - an extra of its own
    except ModuleNotFoundError as error:
        raise missing(error.name) from error
    return transformers


def missing(name: str | None) -> errors.MissingExtraError:
    """What is to be said where a library is not installed."""
    return errors.MissingExtraError(
        f"{name} is not installed, and --upstream needs it: pip install 'granite-gguf[upstream]'"
    )


def loaded(transformers: Any, kind: str, directory: Path, **options: Any) -> Any:
    """What a class of transformers, by its name, loads of a checkpoint.

    Raises:
        granite_gguf.errors.CheckpointError: it cannot.
    """
    try:
        return getattr(transformers, kind).from_pretrained(str(directory), **options)
    # Code of the checkpoint may fail in any way; it is the checkpoint that cannot be used.
    except Exception as error:
        raise errors.CheckpointError(
            f"{directory}: transformers {transformers.__version__} cannot load it: "
            f"{type(error).__name__}: {error}"
        ) from error


def as_rows(tensor: Tensor) -> Tensor:
    """(1, rows, width) or (windows, rows, width) as (rows, width)."""
    return tensor.reshape(-1, tensor.shape[-1])


def _find(model: nn.Module, places: Iterable[str]) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for place in places:
        for name in (place, f"model.{place}"):
            if name in modules:
                return modules[name]
    raise errors.CheckpointError(
        f"the upstream model has no module {' or '.join(places)}: its stages cannot be recorded; "
        "leave out --upstream"
    )


def _first_tensor(values: Iterable[Any]) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (list, tuple)):
            found = _first_tensor(value)
            if found is not None:
                return found
        elif hasattr(value, "values") and callable(value.values):
            found = _first_tensor(value.values())
            if found is not None:
                return found
    return None
