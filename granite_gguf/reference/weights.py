"""Tensors of a checkpoint directory put into a module and taken out again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from granite_gguf.reference.config import CheckpointError

COUNTER = "num_batches_tracked"  # of BatchNorm: means nothing at inference, and may be absent


@contextmanager
def filled(
    module: nn.Module,
    keys: Mapping[str, str],
    places: Mapping[str, Path],
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] = lambda _key, tensor: tensor,
) -> Iterator[None]:
    """A module of the meta device with its weights, while the block runs.

    `keys` are the names in the files by those in the module, `places` the files by those names.
    `change` is given each key and tensor.
    """
    found = read_some(places, set(keys.values()), dtype)
    state = {}
    for name, wanted in module.state_dict().items():
        tensor = found.pop(keys[name], None)
        if tensor is None:
            state[name] = torch.tensor(0)  # a counter: all else has been found to be there
        else:
            state[name] = change(keys[name], tensor.reshape(wanted.shape))
    try:
        module.load_state_dict(state, assign=True)
        state.clear()
        yield
    finally:
        module.to("meta")


def tensor_places(directory: Path) -> dict[str, Path]:
    """The file of every tensor of a single-file or sharded checkpoint."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        paths = sorted({directory / name for name in weight_map.values()})
    else:
        paths = [directory / "model.safetensors"]
    places = {}
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        try:
            with safe_open(path, framework="pt") as file:
                places.update(dict.fromkeys(file.keys(), path))
        except SafetensorError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return places


def read_some(places: Mapping[str, Path], names: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Those tensors that are there, floating ones in `dtype`."""
    found = {}
    for path in sorted({places[name] for name in names if name in places}):
        with safe_open(path, framework="pt") as file:
            for name in names:
                if places.get(name) == path:
                    tensor = file.get_tensor(name)
                    found[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return found


def check(wanted: Mapping[str, torch.Size], places: Mapping[str, Path], where: str) -> None:
    """See that tensors of these keys and shapes are there, and no others."""
    problems = [
        f"missing {key}" for key in wanted if key not in places and not key.endswith(COUNTER)
    ]
    problems += [f"unexpected {key}" for key in sorted(places.keys() - wanted.keys())]
    for path in sorted(set(places.values())):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                shape = [n for n in file.get_slice(key).get_shape() if n != 1]
                if key in wanted and shape != [n for n in wanted[key] if n != 1]:
                    problems.append(f"{key} is {shape}, not {list(wanted[key])}")
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}")
