"""A model file: opened, checked, and read by tensor.

path → container → dialect: hyper-parameters → expected tensors, checked and found by name
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import ModelFileError, UnsupportedModelError, brief
from granite_gguf.files import is_audio_part
from granite_gguf.spec.format import Format, H
from granite_gguf.spec.tensors import TensorSpec
from granite_gguf.storage.container import (
    Container,
    MetadataValue,
    TensorInfo,
    join,
    open_container,
    to_float32,
)
from granite_gguf.storage.dialects.dialect import Dialect, Replacement, TokenizerFacts
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.tensor_check import check_tensors


@dataclass(frozen=True)
class ModelFile(Generic[H]):
    """A checked file, mapped into memory. Tensors are asked for by our names.

    Attributes:
        container: the file as it is.
        reader: of its dialect.
        hparams: all stages' numbers.
        specs: the tensors by name.
        replaced: how the tensors that lie otherwise in the file come to be as ours hold them.
    """

    container: Container
    reader: Dialect[H]
    hparams: H
    specs: dict[str, TensorSpec]
    replaced: Mapping[str, Replacement]

    @property
    def path(self) -> Path:
        return self.container.path

    @property
    def format(self) -> Format[H]:
        """What files of its architecture hold."""
        return self.reader.format

    @property
    def dialect(self) -> str:
        """The architecture that the file itself names."""
        return self.reader.architecture

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies, its shape and type, and what the file calls it."""
        stored, other = self.reader.stored_name(name), self.replaced.get(name)
        if other is None:
            return self.container.tensors[stored]
        return TensorInfo(stored, other.shape, other.type, 0, other.byte_count)

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, a view of the file's map unless it is replaced."""
        other = self.replaced.get(name)
        if other is not None:
            return other.read()
        return self.container.raw(self.reader.stored_name(name))

    def read_bytes(self, name: str, start: int, count: int) -> npt.NDArray[np.uint8]:
        """Some bytes of a tensor, read from the file.

        Unlike the map's, pages read so do not count as memory of the process.
        """
        if name in self.replaced:
            part = self.raw(name)[start : start + count]
            self.release(name)
            return part
        return self.container.read(self.reader.stored_name(name), start, count)

    def release(self, name: str) -> None:
        """Let go of the memory that reading a tensor has filled; it is read anew when needed."""
        other = self.replaced.get(name)
        for stored in (self.reader.stored_name(name),) if other is None else other.made_of:
            self.container.release(stored)

    def text(self, key: str) -> str | None:
        """A string of the file's own metadata, or None."""
        return self.container.text(key)

    def metadata(self) -> dict[str, MetadataValue]:
        """The metadata of a file of ours with the same content."""
        return self.reader.metadata(self.container, self.hparams)

    def tokenizer(self) -> TokenizerFacts:
        """What the file says of its tokenizer."""
        return self.reader.tokenizer(self.container, self.hparams)

    def read(self, name: str) -> FloatArray:
        """A whole tensor decoded to float32, in numpy order.

        Its shape is the format's, whatever dimensions of length 1 the file stores.
        """
        info = self.info(name)
        values = to_float32(self.raw(name), info.type, info.shape)
        return values.reshape(tuple(reversed(self.specs[name].shape)))

    def read_rows(self, name: str, rows: npt.NDArray[np.integer]) -> FloatArray:
        """Some rows of a matrix decoded to float32; only those are read from the file."""
        info = self.info(name)
        width, count = self.specs[name].shape[-2:]
        raw = self.raw(name).reshape(count, -1)[rows]
        return to_float32(raw.reshape(-1), info.type, (width, len(rows)))


def open_model_file(
    path: str | Path, dialects: Sequence[Dialect[Any]], mmproj: str | Path | None = None
) -> ModelFile[Any]:
    """Map and check a file of one of some dialects.

    Args:
        path: the file.
        dialects: those to try.
        mmproj: the file with the rest of the model, where it lies in two; by default the one that
            lies in the same folder, and is named so.

    Raises:
        ModelFileError: the file is damaged, incomplete or inconsistent.
        UnsupportedModelError: it holds another architecture.
    """
    container = open_container(Path(path))
    if mmproj is None and any(
        d.beside is not None and d.architecture == _architecture(container) for d in dialects
    ):
        mmproj = _found_beside(Path(path))
    beside = None if mmproj is None else open_container(Path(mmproj))
    if beside is not None:
        container = join(container, beside)
    reader = _recognise(container, dialects)
    if beside is not None and _architecture(beside) != reader.beside:
        raise ModelFileError(
            f"{mmproj}: holds {brief(_architecture(beside))}, "
            + (
                f"but {path} is a whole model"
                if reader.beside is None
                else f"expected {reader.beside!r}: the encoder and projector of {path}"
            )
        )
    names = (container.path.stem, *map(container.text, (Keys.General.NAME, Keys.General.BASENAME)))
    hparams = reader.read_hparams(container)
    hparams = reader.format.named(hparams, " ".join(filter(None, names)))
    problem = reader.format.problem(hparams)
    if problem:
        raise ModelFileError(f"{path}: {problem}")
    specs = reader.format.tensors(hparams)
    stored = reader.stored_specs(hparams, specs.values())
    check_tensors(container, stored, reader.format.unused)
    return ModelFile(container, reader, hparams, specs, reader.replaced(container, hparams, specs))


def _found_beside(path: Path) -> Path | None:
    """The rest of a model, as llama.cpp's users name it, if there is any in the same folder.

    Raises:
        ModelFileError: there are several.
    """
    found = sorted(other for other in path.parent.iterdir() if is_audio_part(other.name))
    if len(found) > 1:
        raise ModelFileError(
            f"{path}: is a language model alone, and {len(found)} files with encoder and projector "
            f"lie beside it: {', '.join(other.name for other in found)}. Name one as --mmproj to "
            "transcribe, inspect or convert; other commands take a folder with one"
        )
    return found[0] if found else None


def _recognise(container: Container, dialects: Sequence[Dialect[Any]]) -> Dialect[Any]:
    """The reader of a file: several may name the same architecture and differ in their keys."""
    found = _architecture(container)
    named = [d for d in dialects if found == d.architecture]
    if not named and found in [d.beside for d in dialects if d.beside is not None]:
        raise UnsupportedModelError(
            f"{container.path}: is the smaller part of a model in two files. Name the language "
            "model, and this file as --mmproj"
        )
    if not named:
        architectures = dict.fromkeys(d.architecture for d in dialects if d.beside is None)
        titles = dict.fromkeys(dialect.format.title for dialect in dialects)
        raise UnsupportedModelError(
            f"{container.path}: holds "
            f"{'no architecture' if found is None else brief(found)}, expected "
            f"{' or '.join(map(repr, architectures))}: {' or '.join(titles)}, as "
            "`granite-gguf convert` makes it"
        )
    by_keys = (d for d in named if any(key.startswith(d.prefix) for key in container.metadata))
    return next(by_keys, named[0])


def _architecture(container: Container) -> Any:
    """What a file names as its architecture, which may be anything, or None."""
    found = container.metadata.get(Keys.General.ARCHITECTURE)
    return None if found is None else found.value
