"""The three stages as one module, and what its tensors are called in a checkpoint."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from granite_gguf.reference.encoder import Conformer
from granite_gguf.reference.speech.config import SpeechConfig
from granite_gguf.reference.speech.language import Language
from granite_gguf.reference.speech.projector import QFormer

# (pattern, replacement), applied one after the other.
_RENAMES = (
    (r"\.depth_conv\.", ".depth_conv.conv."),
    (r"^projector\.norm\.", "projector.qformer.layernorm."),
    (r"^projector\.layers\.(\d+)\.", r"projector.qformer.encoder.layer.\1."),
    (r"\.self_attention\.", ".attention."),
    (r"\.cross_attention\.", ".crossattention."),
    (r"attention\.(query|key|value)\.", r"attention.attention.\1."),
    (r"attention\.dense\.", "attention.output.dense."),
    (r"attention\.norm\.", "attention.output.LayerNorm."),
    (r"\.feed_forward\.up\.", ".intermediate_query.dense."),
    (r"\.feed_forward\.down\.", ".output_query.dense."),
    (r"\.feed_forward\.norm\.", ".output_query.LayerNorm."),
    (r"^language\.head\.", "language_model.lm_head."),
    (r"^language\.", "language_model.model."),
)


def checkpoint_key(name: str) -> str:
    """Name in a file of the parameter or buffer called `name` in `GraniteSpeech`."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


class GraniteSpeech(nn.Module):
    """Holder of the parameters; the stages are called one by one."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Conformer(config.encoder)
        self.projector = QFormer(config.projector)
        self.language = Language(config.language)

    def encoder_output(self, states: tuple[Tensor, ...]) -> Tensor:
        """States (B, T, D) of all layers -> what the projector reads (B, T, captures * D)."""
        return torch.cat([*(states[k] for k in self.config.beside), states[-1]], dim=-1)
