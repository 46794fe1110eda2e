"""What a converter has to know of a checkpoint, whatever its architecture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import CheckpointError
from granite_gguf.fields import JsonFields
from granite_gguf.spec.format import Format
from granite_gguf.spec.hparams import HParams
from granite_gguf.spec.tensors import TensorSpec
from granite_gguf.storage.container import MetadataValue
from granite_gguf.storage.model_file import ModelFile


class Layout(Enum):
    """The on-disk forms of a checkpoint."""

    NLE = "nle"
    HUB = "granite_speech_nar"
    NATIVE = "native"
    SPEECH = "granite_speech"
    PLUS = "granite_speech_plus"
    LORA = "granite_speech_lora"
    OLDEST = "granite_speech_3.2"


@dataclass(frozen=True)
class Change:
    """A change of low rank that is added to a matrix ``(out, in)``.

    Attributes:
        down: float32 ``(rank, in)``.
        up: float32 ``(out, rank)``.
        scale: of their product.
    """

    down: FloatArray
    up: FloatArray
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.up.shape[0], self.down.shape[1]

    def rows(self, start: int, count: int) -> FloatArray:
        """Some rows of the change, float32 ``(count, in)``."""
        product: FloatArray = (self.up[start : start + count] @ self.down) * np.float32(self.scale)
        return product


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint's JSON says.

    Attributes:
        format: what a file of its architecture holds.
        layout: the form it was recognised as.
        hparams: all stages, behaviour included.
        characters: the character head's outputs by id, unmapped ones empty; None where the
            checkpoint does not name them.
        key: where the checkpoint has a tensor, or None where it has none and it is computed.
        beside: further files with tensors of the model, by what their keys are prefixed with here.
        changes: what is added to tensors, by their keys in the checkpoint.
        metadata: what else the file says, by our keys.
    """

    format: Format[Any]
    layout: Layout
    hparams: HParams
    characters: tuple[str, ...] | None
    key: Callable[[TensorSpec], str | None]
    beside: Mapping[str, Path] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigReader:
    """Reads what files of one architecture are converted from.

    Attributes:
        format: what a file of the architecture holds.
        expected: what its ``model_type`` is.
        recognise: the layout of a ``config.json``, or None where it is of another model.
        read: the configuration of a directory with that ``config.json`` and layout.
        settled: a GGUF file with what it leaves open and can be known, if it was written elsewhere.
    """

    format: Format[Any]
    expected: str
    recognise: Callable[[JsonFields], Layout | None]
    read: Callable[[Path, JsonFields, Layout], CheckpointConfig]
    settled: Callable[[ModelFile[Any]], ModelFile[Any]] = lambda file: file


def read_json(path: Path) -> JsonFields:
    """A file's JSON object.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a checkpoint directory holds it") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return JsonFields(path, fields)
