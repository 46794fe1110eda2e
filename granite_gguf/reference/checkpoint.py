"""Tensors of a checkpoint directory, in any of the three layouts, into the modules.

    model.safetensors | model.safetensors.index.json + shards -> load_model() -> GraniteSpeechNar

The tables below turn the name of a parameter here into its name in a file. Loading is strict: a
missing tensor, a wrong shape or one nobody asked for is an error that names it. BatchNorm's
`num_batches_tracked` counters mean nothing at inference and may be there or not.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from granite_gguf.reference.config import CheckpointError, Layout
from granite_gguf.reference.layouts import read_config
from granite_gguf.reference.model import GraniteSpeechNar
from granite_gguf.reference.weights import check, fill, tensor_places

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
    places = checked_places(directory, model)
    fill(model, checkpoint_keys(model, model.config.semantics.layout), places, dtype)
    return model.eval()


def checkpoint_keys(module: nn.Module, layout: Layout, within: str = "") -> dict[str, str]:
    """Names in a file by those of a module's parameters and buffers, behind what it is within."""
    return {name: checkpoint_key(f"{within}{name}", layout) for name in module.state_dict()}


def checked_places(directory: Path, model: GraniteSpeechNar) -> dict[str, Path]:
    """The file of every tensor of a checkpoint, after a look whether they are a model's."""
    places, layout = tensor_places(directory), model.config.semantics.layout
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wanted = {key: shapes[name] for name, key in checkpoint_keys(model, layout).items()}
    check(wanted, places, f"{directory} ({layout} layout)")
    return places


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The checkpoint's own tokenizer, from `tokenizer.json`."""
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return Tokenizer.from_file(str(path))
