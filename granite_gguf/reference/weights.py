"""Tensors of a checkpoint directory put into a module and taken out again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from granite_gguf.reference.config import CheckpointError

COUNTER = "num_batches_tracked"  # of BatchNorm: means nothing at inference, and may be absent


Change = Callable[[str, Tensor], Tensor]
"""What becomes of a tensor, given its name in the files."""


def unchanged(_: str, tensor: Tensor) -> Tensor:
    """As it is."""
    return tensor


def fill(
    module: nn.Module,
    keys: Mapping[str, str],
    places: Mapping[str, Path],
    dtype: torch.dtype,
    change: Change = unchanged,
) -> None:
    """Put weights into a module of the meta device.

    `keys` are the names in the files by those in the module, `places` the files by those names.
    """
    found = read_some(places, set(keys.values()), dtype)
    state = {}
    for name, wanted in module.state_dict().items():
        tensor = found.pop(keys[name], None)
        if tensor is None:
            state[name] = torch.tensor(0)  # a counter: all else has been found to be there
        else:
            state[name] = change(keys[name], tensor.reshape(wanted.shape))
    module.load_state_dict(state, assign=True)


@contextmanager
def filled(
    module: nn.Module,
    keys: Mapping[str, str],
    places: Mapping[str, Path],
    dtype: torch.dtype,
    change: Change = unchanged,
) -> Iterator[None]:
    """As `fill`, while the block runs."""
    fill(module, keys, places, dtype, change)
    try:
        yield
    finally:
        module.to("meta")


def tensor_places(directory: Path) -> dict[str, Path]:
    """The file of every tensor of a single-file or sharded checkpoint."""
    index = directory / "model.safetensors.index.json"
    listed = None
    paths = [directory / "model.safetensors"]
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        paths = sorted({directory / name for name in listed.values()})
    places: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        try:
            with safe_open(path, framework="pt") as file:
                places.update(dict.fromkeys(file.keys(), path))
        except SafetensorError as error:
            raise CheckpointError(f"{path}: {error}") from error
    if listed is not None and listed.keys() != places.keys():
        odd = sorted(listed.keys() ^ places.keys())
        raise CheckpointError(f"{index}: index and shards disagree about {', '.join(odd)}")
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
                shape = file.get_slice(key).get_shape()
                if key in wanted and _bare(shape) != _bare(wanted[key]):
                    problems.append(f"{key} is {shape}, not {list(wanted[key])}")
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}")


def _bare(shape: Sequence[int]) -> list[int]:
    """Shape of a learned query, say, stored as [1, 3, 2048] or [3, 2048] alike."""
    return list(dropwhile(lambda size: size == 1, shape))
