"""An architecture: one kind of model, as a record of what its files hold and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from granite_gguf.ggml import Runtime
from granite_gguf.passes import Lane
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.recorded.stages import Parity
from granite_gguf.spec.derived import DerivedWeights, ReadWeight
from granite_gguf.spec.format import Format, H
from granite_gguf.storage.dialects.dialect import Dialect
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer


@dataclass(frozen=True)
class Architecture(Generic[H]):
    """What is to be known of one kind of model; nothing outside its own rooms knows more.

    Attributes:
        room: the folder that is its own, here and with the converters, where ``layouts`` has what
            reads its checkpoints.
        format: its name, hyper-parameters, tensors and checks.
        dialects: the readers of its files, our own first.
        derived: computes the weights that the graphs read in place of some tensors.
        lane: makes what runs a file's weights on a runtime.
        parity: how its models are compared, stage by stage.
    """

    room: str
    format: Format[H]
    dialects: tuple[Dialect[H], ...]
    derived: Callable[[H, ReadWeight], DerivedWeights]
    lane: Callable[[ModelFile[H], SpeechTokenizer, ModelWeights, Runtime], Lane]
    parity: Parity[H]
