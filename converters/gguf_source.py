"""Converts a GGUF file that was written elsewhere to ours, part by part.

The tensors keep their types and bytes unless other types are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from granite_gguf.architectures import open_model_file
from granite_gguf.arrays import AnyArray
from granite_gguf.converters.checkpoint import Layout
from granite_gguf.converters.configs import settled
from granite_gguf.converters.convert import Conversion
from granite_gguf.converters.dtypes import SOURCE_TYPES, OutType, convert_values, output_type
from granite_gguf.converters.safetensors_source import PART_BYTES
from granite_gguf.errors import InputError, ModelFileError, UnsupportedModelError
from granite_gguf.files import Progress, silent
from granite_gguf.ggml.types import GGMLType, row_bytes
from granite_gguf.spec.tensors import TensorSpec
from granite_gguf.storage.container import MetadataValue
from granite_gguf.storage.file_names import split_type
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.storage.writer import TensorSource, write_gguf

_MAGIC = b"GGUF"
_FLOATS = dict(SOURCE_TYPES.values())  # how numpy reads the bytes of a float type


def is_gguf(path: Path) -> bool:
    """Whether a source is a GGUF file, or at least named like one."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error


def default_output(file: ModelFile[Any]) -> Path:
    """The file's name with the format before the type, which the Hub reads at the end."""
    name, kind = split_type(file.path.stem)
    return file.path.with_name(f"{name}-{file.format.name}{kind}.gguf")


def convert_gguf(
    source: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    mmproj: str | PathLike[str] | None = None,
    outtype: OutType | str | None = None,
    revision: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Conversion:
    """Convert a GGUF file of another dialect, or one of ours that was written elsewhere.

    Args:
        source: the file.
        output: the file to write; by default beside the source.
        mmproj: the file with encoder and projector, where the source is the language model of a
            pair for llama.cpp.
        outtype: types by the same policies as for checkpoints; by default each tensor keeps its
            own, and its bytes.
        revision: the checkpoint's revision, recorded in the file.
        force: replace an existing file.
        progress: is told of every part written.

    Raises:
        InputError: the output is the source.
        ModelFileError: the file cannot be read, or is quantized and ``outtype`` is given.
        UnsupportedModelError: it is a file of ours already, or of another model.
        CheckpointError: a number does not fit into the type asked for, or is not finite.
        OutputError: the output exists and ``force`` is not set, or cannot be written.
    """
    file = open_model_file(Path(source), None if mmproj is None else Path(mmproj))
    if file.reader.is_complete(file.container):
        raise UnsupportedModelError(
            f"{file.path}: is a {file.dialect} file already; there is nothing to convert. "
            "`granite-gguf quantize` writes other types"
        )
    path = default_output(file) if output is None else Path(output)
    if path.exists() and any(path.samefile(stored.path) for stored in file.container.files):
        raise InputError(f"{path}: is the source itself; name another output")
    policy = None if outtype is None else OutType(outtype)
    if policy is not None:
        _check_floats(file)
    file = settled(file)
    parameters = sum(prod(spec.shape) for spec in file.specs.values())
    metadata = _metadata(file, policy, parameters, revision)
    sources = [_tensor_source(file, spec, policy) for spec in file.specs.values()]
    size = write_gguf(path, metadata, sources, force=force, progress=progress)
    layout = Layout(metadata[file.format.key(Keys.Source.LAYOUT)].value)
    return Conversion(path, layout, file.hparams, parameters, size)


def _check_floats(file: ModelFile[Any]) -> None:
    quantized = [info for info in map(file.info, file.specs) if info.type not in _FLOATS]
    if quantized:
        raise ModelFileError(
            f"{file.path}: {len(quantized)} tensors are quantized, such as {quantized[0].name} "
            f"({quantized[0].type.name}), expected F32, F16 or BF16 to convert to another type. "
            "Without --outtype they are taken over as they are"
        )


def _tensor_source(file: ModelFile[Any], spec: TensorSpec, policy: OutType | None) -> TensorSource:
    info = file.info(spec.name)
    kind = info.type if policy is None else output_type(policy, spec)
    width = info.shape[0]
    row, total = row_bytes(info.type, width), info.byte_count
    step = max(1, PART_BYTES // row) * row

    def parts() -> Iterator[AnyArray]:
        for start in range(0, total, step):
            raw = file.read_bytes(spec.name, start, min(step, total - start))
            yield raw if policy is None else _converted(spec.name, raw, width, info.type, kind)

    return TensorSource(spec.name, info.shape, kind, parts)


def _converted(
    name: str, raw: npt.NDArray[np.uint8], width: int, stored: GGMLType, wanted: GGMLType
) -> AnyArray:
    return convert_values(name, raw.view(_FLOATS[stored]).reshape(-1, width), stored, wanted)


def _metadata(
    file: ModelFile[Any], policy: OutType | None, parameters: int, revision: str | None
) -> dict[str, MetadataValue]:
    metadata, key = file.metadata(), file.format.key
    variant = metadata.get(key(Keys.Source.VARIANT), MetadataValue.of(file.path.stem)).value
    title: str = gguf.Metadata.id_to_title(variant)  # type: ignore[no-untyped-call]
    label = gguf.size_label(parameters, 0, 0, 0)
    metadata.setdefault(Keys.General.NAME, MetadataValue.of(title))
    metadata.setdefault(Keys.General.SIZE_LABEL, MetadataValue.of(label))
    metadata[key(Keys.Source.FILE)] = MetadataValue.of(file.path.name)
    if revision:
        metadata[key(Keys.Source.REVISION)] = MetadataValue.of(revision)
    if policy is not None:
        metadata[Keys.General.FILE_TYPE] = MetadataValue.of(int(policy.file_type))
    return metadata
