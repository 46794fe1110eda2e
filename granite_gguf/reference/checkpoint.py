"""Tensors of a checkpoint directory, in any of the three layouts, into the modules.

    model.safetensors | model.safetensors.index.json + shards -> load_model() -> GraniteSpeechNar

The tables below turn the name of a parameter here into its name in a file. Loading is strict: a
missing tensor, a wrong shape or one nobody asked for is an error that names it. BatchNorm's
`num_batches_tracked` counters mean nothing at inference and may be there or not.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from granite_gguf.reference.config import CheckpointError, Layout
from granite_gguf.reference.layouts import read_config
from granite_gguf.reference.model import GraniteSpeechNar
from granite_gguf.reference.weights import COUNTER

# (pattern, replacement), applied one after the other.
_REMOTE_CODE = (
    (r"\.depth_conv\.", ".depth_conv.conv."),
    (r"^projector\.layers\.(\d+)\.(fc[12])\.", r"projector.layers.\1.mlp.\2."),
    (r"^projector\.layers\.", "projector.qformer.layers."),
)
_RENAMES: dict[Layout, tuple[tuple[str, str], ...]] = {
    "nle": (*_REMOTE_CODE, (r"^editor\.", "llm.model.")),
    "granite_speech_nar": (*_REMOTE_CODE, (r"^editor\.", "language_model.model.")),
    "native": (
        *_REMOTE_CODE,
        (r"\.cross_attention\.", ".cross_attn."),
        (r"^projector\.layer_projector\.", "projector.proj."),
        (r"^projector\.query$", "projector.qformer.queries"),
        (r"^projector\.window_positions$", "projector.qformer.pos_emb"),
        (r"^projector\.out_linear\.", "projector.qformer.linear."),
        (r"^encoder\.out_bpe\.", "out_bpe."),
        (r"^editor\.", "language_model."),
        (r"^", "model."),
    ),
}


def checkpoint_key(name: str, layout: Layout) -> str:
    """Name in a file of the parameter or buffer called `name` in `GraniteSpeechNar`."""
    for pattern, replacement in _RENAMES[layout]:
        name = re.sub(pattern, replacement, name)
    return name


def to_checkpoint(model: GraniteSpeechNar) -> dict[str, Tensor]:
    """The model's tensors under the names of its layout."""
    layout = model.config.semantics.layout
    return {checkpoint_key(name, layout): tensor for name, tensor in model.state_dict().items()}


def load_model(directory: str | Path, dtype: torch.dtype = torch.float32) -> GraniteSpeechNar:
    """The checkpoint's model in evaluation mode, all its floating tensors in `dtype`."""
    directory = Path(directory)
    with torch.device("meta"):
        model = GraniteSpeechNar(read_config(directory))
    state = _fit(read_tensors(directory, dtype), model, directory)
    model.load_state_dict(state, assign=True)
    return model.eval()


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The checkpoint's own tokenizer, from `tokenizer.json`."""
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return Tokenizer.from_file(str(path))


def read_tensors(directory: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor of a single-file or sharded checkpoint, floating ones converted to `dtype`."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        paths = [directory / name for name in sorted(set(weight_map.values()))]
    else:
        paths = [directory / "model.safetensors"]
        weight_map = None
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    tensor = file.get_tensor(name)
                    tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        except SafetensorError as error:
            raise CheckpointError(f"{path}: {error}") from error
    if weight_map is not None and weight_map.keys() != tensors.keys():
        odd = sorted(weight_map.keys() ^ tensors.keys())
        raise CheckpointError(f"{index}: index and shards disagree about {', '.join(odd)}")
    return tensors


def _fit(found: dict[str, Tensor], model: GraniteSpeechNar, directory: Path) -> dict[str, Tensor]:
    """Tensors under the model's names and in its shapes, or an error listing what does not fit."""
    layout = model.config.semantics.layout
    state: dict[str, Tensor] = {}
    problems: list[str] = []
    for name, wanted in model.state_dict().items():
        key = checkpoint_key(name, layout)
        tensor = found.pop(key, None)
        if name.endswith(COUNTER):
            state[name] = torch.tensor(0) if tensor is None else tensor
        elif tensor is None:
            problems.append(f"missing {key}")
        elif _without_leading_ones(tensor.shape) != _without_leading_ones(wanted.shape):
            problems.append(f"{key} is {list(tensor.shape)}, not {list(wanted.shape)}")
        else:
            state[name] = tensor.reshape(wanted.shape)
    problems.extend(f"unexpected {key}" for key in sorted(found))
    if problems:
        raise CheckpointError(f"{directory} ({layout} layout): {'; '.join(problems)}")
    return state


def _without_leading_ones(shape: torch.Size) -> list[int]:
    """Shape of a learned query, say, stored as [1, 3, 2048] or [3, 2048] alike."""
    dims = list(shape)
    while dims and dims[0] == 1:
        dims.pop(0)
    return dims
