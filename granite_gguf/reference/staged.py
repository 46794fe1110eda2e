"""The reference one stage at a time: the weights of a single stage are in memory at once.

The full-size model needs 9 GB in float32, its largest stage 6.5 GB. The computation is that of
`Reference`, whose stages are called with their weights put in and taken out again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from granite_gguf.reference.checkpoint import (
    checked_places,
    checkpoint_keys,
    load_tokenizer,
)
from granite_gguf.reference.encoder import Encoded
from granite_gguf.reference.layouts import read_config
from granite_gguf.reference.model import GraniteSpeechNar
from granite_gguf.reference.pipeline import Floats, Reference
from granite_gguf.reference.weights import filled


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
        self.places = checked_places(self.directory, model)

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

    def _loaded(self, stage: str) -> AbstractContextManager[None]:
        self.progress(stage)
        module: nn.Module = getattr(self.model, stage)
        keys = checkpoint_keys(module, self.config.semantics.layout, f"{stage}.")
        return filled(module, keys, self.places, self.dtype)
