"""The adapter of 3.x: W + (alpha / r) * B @ A, for prompts with audio, as all are here."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from granite_gguf.reference.config import CheckpointError
from granite_gguf.reference.sections import read_json
from granite_gguf.reference.weights import Change

# PEFT's prefix, and where the language model is in a checkpoint or in transformers 5's memory.
_KEY = re.compile(
    r"^(?:base_model\.model\.)?(?:language_model\.model|model\.language_model)\.(?P<at>.+)"
    r"\.lora_(?P<side>[AB])(?:\.default)?\.weight$"
)


def read_adapter(directory: Path, keys: set[str], dtype: torch.dtype) -> Change:
    """What the adapter makes of a tensor, by its key; every change must be of one of `keys`."""
    config, path = directory / "adapter_config.json", directory / "adapter_model.safetensors"
    scale = read_json(config).need("lora_alpha") / read_json(config).need("r")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, but config.json says has_lora_adapter")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from error
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _KEY.match(name)
        key = f"language_model.model.{match['at']}.weight" if match else ""
        if match is None or key not in keys:
            raise CheckpointError(f"{path}: {name} changes no matrix of the language model")
        sides.setdefault(key, {})[match["side"]] = tensor.float()
    halves = [key for key, found in sides.items() if len(found) != 2]
    if halves or not sides:
        raise CheckpointError(f"{path}: no whole changes of {', '.join(halves) or 'any matrix'}")

    def change(key: str, tensor: Tensor) -> Tensor:
        if key not in sides:
            return tensor
        delta: Tensor = scale * sides[key]["B"] @ sides[key]["A"]
        return (tensor.float() + delta).to(dtype)

    return change
