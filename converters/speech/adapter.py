"""Reads the adapter of a 3.x checkpoint: changes of low rank for prompts with audio."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.converters.checkpoint import Change, read_json
from granite_gguf.converters.dtypes import convert_values
from granite_gguf.converters.safetensors_source import StoredTensor, read_tensors
from granite_gguf.errors import CheckpointError, brief
from granite_gguf.ggml.types import F32
from granite_gguf.speech.spec import Adapter

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# PEFT's prefix, then where the language model is: in the checkpoint, or in transformers 5's memory.
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?:language_model\.model|model\.language_model)\."
    r"(layers\.\d+\..+)\.lora_([AB])(?:\.default)?\.weight"
)


def read_adapter(directory: Path) -> tuple[Adapter, dict[str, Change]]:
    """The adapter's numbers, and its changes by the key of the matrix that each belongs to.

    Raises:
        CheckpointError: a file is missing, or holds what is not understood.
    """
    fields = read_json(directory / _CONFIG)
    rank, alpha = fields.get(int, "r"), fields.get(float, "lora_alpha")
    for name in ("use_rslora", "use_dora", "fan_in_fan_out"):
        if fields.find(name) is not None:
            fields.require(name, False)
    for name in ("rank_pattern", "alpha_pattern"):
        if fields.find(name):
            raise fields.wrong(name, "none: one rank and alpha for all matrices")
    if not rank:
        raise fields.wrong("r", "at least 1")
    path = directory / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, but config.json says has_lora_adapter")
    sides: dict[str, dict[str, FloatArray]] = defaultdict(dict)
    for key, tensor in read_tensors(path).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(
                f"{path}: {brief(key)} is no matrix of an adapter of the language model, expected "
                "base_model.model.language_model.model.layers.N...lora_A.weight or lora_B"
            )
        sides[f"language_model.model.{match[1]}.weight"][match[2]] = _matrix(key, tensor)
    changes = {}
    for key, found in sides.items():
        if found.keys() != {"A", "B"}:
            raise CheckpointError(f"{path}: has only lora_{next(iter(found))} for {brief(key)}")
        if found["A"].shape[0] != rank or found["B"].shape[1] != rank:
            raise CheckpointError(
                f"{path}: lora_A {list(found['A'].shape)} and lora_B {list(found['B'].shape)} of "
                f"{brief(key)} have not the rank {rank} of {_CONFIG}"
            )
        changes[key] = Change(found["A"], found["B"], alpha / rank)
    if not changes:
        raise CheckpointError(f"{path}: holds no tensors, expected the adapter's")
    return Adapter(rank, alpha, merged=True), changes


def _matrix(key: str, tensor: StoredTensor) -> FloatArray:
    if len(tensor.shape) != 2:
        raise CheckpointError(
            f"{tensor.path}: {brief(key)} has the shape {list(tensor.shape)}, expected a matrix"
        )
    rows = [
        convert_values(key, part, stored, F32) for part, stored in tensor.rows(key, tensor.shape[1])
    ]
    return np.concatenate(rows) if rows else np.zeros(tensor.shape, np.float32)
