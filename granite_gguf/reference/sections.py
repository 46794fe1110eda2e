"""The JSON files of checkpoints, and the fields that all layouts have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from granite_gguf.reference.config import CheckpointError, ConformerConfig, GraniteConfig


class Section(Mapping[str, Any]):
    """One JSON object that says its own name when a field is missing."""

    def __init__(self, name: str, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise CheckpointError(f"{name}: expected an object, found {type(fields).__name__}")
        self.name, self._fields = name, fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def need(self, key: str) -> Any:
        """The field's value; absent and null are the same error."""
        if self.get(key) is None:
            raise CheckpointError(f"{self.name}: field {key!r} is missing")
        return self._fields[key]

    def section(self, key: str) -> Section:
        return Section(f"{self.name}: {key}", self.need(key))


def read_json(path: Path) -> Section:
    """The object in a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return Section(str(path), json.loads(text))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error


def conformer(fields: Section) -> ConformerConfig:
    """The blocks, from a checkpoint's `encoder_config`."""
    n_layers, d_model = fields.need("num_layers"), fields.need("hidden_dim")
    return ConformerConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=fields.need("num_heads"),
        head_dim=fields.get("dim_head") or d_model // fields.need("num_heads"),
        input_dim=fields.need("input_dim"),
        ff_dim=d_model * fields.need("feedforward_mult"),
        conv_inner=d_model * fields.need("conv_expansion_factor"),
        conv_kernel=fields.need("conv_kernel_size"),
        context_size=fields.need("context_size"),
        max_pos_emb=fields.need("max_pos_emb"),
        char_vocab=fields.need("output_dim"),
        self_conditioning_layer=fields.get("self_conditioning_layer") or n_layers // 2,
    )


def check_captured(root: Section, captured: Sequence[int], n_layers: int) -> None:
    """See that there is a layer of each number; negative ones count from the end."""
    for index in captured:
        if not -n_layers - 1 <= index <= n_layers:
            raise CheckpointError(f"{root.name}: no encoder layer {index}, there are {n_layers}")


def granite(fields: Section, rope: Section) -> GraniteConfig:
    """The language model's layers; `rope` is where its base is kept."""
    d_model, n_heads = fields.need("hidden_size"), fields.need("num_attention_heads")
    return GraniteConfig(
        n_layers=fields.need("num_hidden_layers"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=fields.need("num_key_value_heads"),
        head_dim=fields.get("head_dim") or d_model // n_heads,
        ff_dim=fields.need("intermediate_size"),
        vocab_size=fields.need("vocab_size"),
        rope_theta=float(rope.need("rope_theta")),
        norm_eps=fields.need("rms_norm_eps"),
        embedding_multiplier=float(fields.need("embedding_multiplier")),
        attention_multiplier=float(fields.need("attention_multiplier")),
        residual_multiplier=float(fields.need("residual_multiplier")),
    )
