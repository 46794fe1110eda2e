"""The reference one stage at a time: the weights of a single stage are in memory at once.

The full-size model needs 9 GB in float32, its largest stage 6.5 GB. The computation is that of
`Reference`, whose stages are called with their weights put in and taken out again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from granite_gguf.reference.checkpoint import COUNTER, checkpoint_key, load_tokenizer
from granite_gguf.reference.config import CheckpointError
from granite_gguf.reference.encoder import Encoded
from granite_gguf.reference.layouts import read_config
from granite_gguf.reference.model import GraniteSpeechNar
from granite_gguf.reference.pipeline import Floats, Reference

STAGES = ("encoder", "projector", "editor")


class StagedReference(Reference):
    """A `Reference` that reads each stage's weights when it runs it and frees them after."""

    def __init__(
        self,
        directory: str | Path,
        dtype: torch.dtype = torch.float32,
        progress: Callable[[str], None] = lambda _stage: None,
    ) -> None:
        """`progress` is told of each stage before its weights are read."""
        self.directory = Path(directory)
        with torch.device("meta"):
            model = GraniteSpeechNar(read_config(self.directory))
        super().__init__(model, load_tokenizer(self.directory))
        self.dtype = dtype
        self.progress = progress
        self.places = tensor_places(self.directory)
        _check(model, self.places, self.directory)

    def encode(self, mel: NDArray[Any]) -> Encoded:
        """As `Reference.encode`."""
        with self._loaded("encoder"):
            return super().encode(mel)

    def project(self, encoder_output: NDArray[Any]) -> Floats:
        """As `Reference.project`."""
        with self._loaded("projector"):
            return super().project(encoder_output)

    def edit(self, audio_embs: NDArray[Any], text_ids: NDArray[Any]) -> Floats:
        """As `Reference.edit`."""
        with self._loaded("editor"):
            return super().edit(audio_embs, text_ids)

    @contextmanager
    def _loaded(self, stage: str) -> Iterator[None]:
        self.progress(stage)
        module: nn.Module = getattr(self.model, stage)
        layout = self.config.semantics.layout
        keys = {name: checkpoint_key(f"{stage}.{name}", layout) for name in module.state_dict()}
        found = read_some(self.places, set(keys.values()), self.dtype)
        state = {}
        for name, wanted in module.state_dict().items():
            tensor = found.pop(keys[name], None)
            state[name] = torch.tensor(0) if tensor is None else tensor.reshape(wanted.shape)
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


def read_some(places: dict[str, Path], names: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Those tensors that are there, floating ones in `dtype`."""
    found = {}
    for path in sorted({places[name] for name in names if name in places}):
        with safe_open(path, framework="pt") as file:
            for name in names:
                if places.get(name) == path:
                    tensor = file.get_tensor(name)
                    found[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return found


def _check(model: GraniteSpeechNar, places: dict[str, Path], directory: Path) -> None:
    """The model's tensors are there, in its shapes, and no others."""
    layout = model.config.semantics.layout
    wanted = {checkpoint_key(name, layout): t.shape for name, t in model.state_dict().items()}
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
        raise CheckpointError(f"{directory} ({layout} layout): {'; '.join(problems)}")
