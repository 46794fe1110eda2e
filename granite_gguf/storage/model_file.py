"""A model file: opened, checked, and read by tensor.

path → container → the format's keys and names (dialect) → hyper-parameters, checked tensors
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import ModelFileError, UnsupportedModelError, brief
from granite_gguf.spec.hparams import HParams
from granite_gguf.spec.tensors import TensorSpec, expected_tensors
from granite_gguf.storage.container import (
    Container,
    TensorInfo,
    ValueType,
    open_container,
    to_float32,
)
from granite_gguf.storage.dialects import transcribe_cpp
from granite_gguf.storage.keys import ARCHITECTURE, Keys, read_hparams
from granite_gguf.storage.tensor_check import check_tensors

DIALECTS = (ARCHITECTURE, transcribe_cpp.ARCHITECTURE)
"""The architectures that are read."""


@dataclass(frozen=True)
class ModelFile:
    """A checked file, mapped into memory.

    Attributes:
        container: the file with the metadata and tensor names of ``granite_nle``.
        hparams: all stages' numbers.
        specs: the tensors by name.
        stored: the file as it is; another object than ``container`` where it is of another dialect.
    """

    container: Container
    hparams: HParams
    specs: dict[str, TensorSpec]
    stored: Container

    @property
    def path(self) -> Path:
        return self.container.path

    @property
    def dialect(self) -> str:
        """The architecture that the file itself names."""
        return str(self.stored.metadata[Keys.General.ARCHITECTURE].value)

    def info(self, name: str) -> TensorInfo:
        return self.container.tensors[name]

    def text(self, key: str) -> str | None:
        """A string of the metadata, or None."""
        found = self.container.metadata.get(key)
        return found.value if found is not None and found.type is ValueType.STRING else None

    def integers(self, key: str) -> list[int] | None:
        """An integer array of the metadata, or None."""
        found = self.container.metadata.get(key)
        integral = found is not None and found.element_type in (ValueType.INT32, ValueType.UINT32)
        return list(found.value) if found is not None and integral else None

    def strings(self, key: str) -> list[str] | None:
        """A string array of the metadata, or None."""
        found = self.container.metadata.get(key)
        textual = found is not None and found.element_type is ValueType.STRING
        return list(found.value) if found is not None and textual else None

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """A whole tensor decoded to float32, in numpy order.

        Its shape is the format's, whatever dimensions of length 1 the file stores.
        """
        info = self.info(name)
        values = to_float32(self.container.raw(name), info.type, info.shape)
        return values.reshape(tuple(reversed(self.specs[name].shape)))

    def read_rows(self, name: str, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Some rows of a matrix decoded to float32; only those are read from the file."""
        info = self.info(name)
        width, count = self.specs[name].shape[-2:]
        raw = self.container.raw(name).reshape(count, -1)[rows]
        return to_float32(raw.reshape(-1), info.type, (width, len(rows)))


def open_model_file(path: str | Path) -> ModelFile:
    """Map and check a file of either dialect.

    Raises:
        ModelFileError: the file is damaged, incomplete or inconsistent.
        UnsupportedModelError: it holds another architecture.
    """
    path = Path(path)
    stored = open_container(path)
    architecture = stored.metadata.get(Keys.General.ARCHITECTURE)
    if architecture is None or architecture.value not in DIALECTS:
        found = "no architecture" if architecture is None else brief(architecture.value)
        raise UnsupportedModelError(
            f"{path}: holds {found}, expected {' or '.join(map(repr, DIALECTS))}: a Granite "
            "Speech NAR model, as `granite-gguf convert` makes it"
        )
    container = stored if architecture.value == ARCHITECTURE else transcribe_cpp.translate(stored)
    hparams = read_hparams(path, container.metadata)
    layers = max(hparams.encoder.n_layers, hparams.projector.n_layers, hparams.editor.n_layers)
    if layers > len(container.tensors):
        raise ModelFileError(f"{path}: claims {layers} layers in {len(container.tensors)} tensors")
    specs = expected_tensors(hparams)
    check_tensors(path, container.tensors, specs.values())
    return ModelFile(container, hparams, specs, stored)
