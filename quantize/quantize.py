"""Applies a policy to a file, a few rows at a time, on all cores.

plan: metadata and tensor table → a type for each tensor, sizes; no weights are read
quantize: plan → rows read, decoded and encoded by threads → a new file
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.architectures import open_model_file
from granite_gguf.arrays import FloatArray
from granite_gguf.errors import InputError, ModelFileError
from granite_gguf.files import Progress, silent
from granite_gguf.ggml import BF16, F16, F32, default_threads, row_bytes
from granite_gguf.ggml.quants import encode_rows, prepare_encoding
from granite_gguf.quantize.imatrix import ImportanceMatrix, read_importance
from granite_gguf.quantize.policies import Choice, Override, Scope, choose_type
from granite_gguf.quantize.types import QUANT_TYPES, QuantType
from granite_gguf.spec.tensors import Role, TensorSpec
from granite_gguf.storage.container import MetadataValue, TensorInfo, to_float32
from granite_gguf.storage.file_names import split_type
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.storage.writer import TensorSource, write_gguf

PART_NUMBERS = 1 << 20  # of a part that one thread works on
QUANTIZATION_VERSION = 2  # of ggml's block formats

_FLOATS = {F32, F16, BF16}


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor: where it is, and what it becomes."""

    spec: TensorSpec
    info: TensorInfo
    choice: Choice

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape to write. A quantized pointwise convolution is stored as a matrix."""
        if self.spec.role is Role.POINTWISE and self.choice.type is not F32:
            return self.info.shape[-2:]
        return self.info.shape

    @property
    def byte_count(self) -> int:
        rows = int(np.prod(self.shape[1:], dtype=np.int64))
        return row_bytes(self.choice.type, self.shape[0]) * rows

    @property
    def changes(self) -> bool:
        return self.choice.type != self.info.type

    @property
    def fell_back(self) -> bool:
        return self.choice.type != self.choice.wanted


@dataclass(frozen=True)
class Plan:
    """What a quantization will do."""

    quant: QuantType
    scope: Scope
    overrides: tuple[Override, ...]
    tensors: tuple[PlannedTensor, ...]

    @property
    def byte_count(self) -> int:
        """The size of all tensors; the metadata comes on top."""
        return sum(tensor.byte_count for tensor in self.tensors)

    @property
    def policy(self) -> str:
        """One line that says how a file was made."""
        parts = [self.quant.name, self.scope.value]
        parts += [f"{o.pattern.pattern}={o.type.name.lower()}" for o in self.overrides]
        return " ".join(parts)


@dataclass(frozen=True)
class Quantization:
    """What was written."""

    path: Path
    plan: Plan
    byte_count: int


def quant_type(name: str) -> QuantType:
    """A quantization by its name, in any case.

    Raises:
        InputError: there is none of this name.
    """
    found = QUANT_TYPES.get(name.lower())
    if found is None:
        raise InputError(f"there is no type {name!r}; expected one of {', '.join(QUANT_TYPES)}")
    return found


def parse_override(text: str) -> Override:
    """``REGEX=TYPE`` as an override.

    Raises:
        InputError: it is malformed, or the type is none or a mixture.
    """
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern:
        raise InputError(f"{text!r} is no REGEX=TYPE, such as 'attn_v=q6_k'")
    kind = quant_type(name)
    if kind.base != kind.higher:
        raise InputError(f"{name!r} is a mixture; expected a single type for {pattern!r}")
    try:
        return Override(re.compile(pattern), kind.base)
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from error


def default_output(source: Path, plan_quant: QuantType, scope: Scope) -> Path:
    """The source's name with the type in the form that the Hub reads, last and upper case."""
    stem = re.sub(r"-enc(?:F16|BF16|Q8)$", "", split_type(source.stem)[0])
    inner = {Scope.ENC_F16: "-encF16", Scope.ENC_BF16: "-encBF16", Scope.ENC_Q8: "-encQ8"}
    return source.with_name(f"{stem}{inner.get(scope, '')}-{plan_quant.label}.gguf")


def make_plan(
    file: ModelFile[Any],
    quant: QuantType | str = "q4_k",
    scope: Scope = Scope.EDITOR,
    overrides: Sequence[Override] = (),
    *,
    allow_requantize: bool = False,
) -> Plan:
    """Choose a type for every tensor.

    Raises:
        InputError: there is no such type, or an override matches nothing.
        ModelFileError: a tensor is quantized already and ``allow_requantize`` is not set.
    """
    quant = quant_type(quant) if isinstance(quant, str) else quant
    for override in overrides:
        if not any(override.pattern.search(name) for name in file.specs):
            raise InputError(f"no tensor's name matches {override.pattern.pattern!r}")
    tensors = []
    for spec in file.specs.values():
        info = file.info(spec.name)
        choice = choose_type(quant, scope, overrides, file.hparams, spec, info.type)
        tensors.append(PlannedTensor(spec, info, choice))
    again = [t for t in tensors if t.changes and t.info.type not in _FLOATS]
    if again and not allow_requantize:
        raise ModelFileError(
            f"{file.path}: {len(again)} tensors are quantized already, such as "
            f"{again[0].info.name} ({again[0].info.type.name}); quantizing them again loses more "
            "than quantizing the original. Use the F32, F16 or BF16 file, or --allow-requantize"
        )
    return Plan(quant, scope, tuple(overrides), tuple(tensors))


def quantize(
    source: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    quant: QuantType | str = "q4_k",
    *,
    scope: Scope = Scope.EDITOR,
    overrides: Sequence[Override] = (),
    imatrix: str | PathLike[str] | None = None,
    allow_requantize: bool = False,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Quantization:
    """Quantize a file.

    Args:
        source: a GGUF file of the model, best in F32, F16 or BF16.
        output: the file to write; by default beside the source, named after the type.
        quant: the type for the language model, and with ``Scope.ALL`` for all stages.
        scope: what becomes of encoder and projector.
        overrides: types by name, which decide before the policy.
        imatrix: an importance matrix to weigh the columns with.
        allow_requantize: accept tensors that are quantized already.
        threads: how many rows to encode at a time; by default one for each available core.
        force: replace an existing file.
        progress: is told of every part written.

    Raises:
        InputError: a type or an override is wrong.
        ModelFileError: a file cannot be read, or its tensors are quantized already.
        OutputError: the output exists and ``force`` is not set, or cannot be written.
    """
    file = open_model_file(str(source))
    plan = make_plan(file, quant, scope, overrides, allow_requantize=allow_requantize)
    importance = None if imatrix is None else _fitting_importance(file, imatrix)
    path = default_output(file.path, plan.quant, scope) if output is None else Path(output)
    if path.exists() and any(path.samefile(stored.path) for stored in file.container.files):
        raise InputError(f"{path}: is the source itself; name another output")
    count = threads or default_threads()
    for kind in {tensor.choice.type for tensor in plan.tensors}:
        prepare_encoding(kind)
    with ThreadPoolExecutor(count, "quantize") as pool:
        encoder = _Encoder(pool, 2 * count, file, importance)
        sources = [encoder.source(tensor) for tensor in plan.tensors]
        size = write_gguf(
            path, _metadata(file, plan, importance), sources, force=force, progress=progress
        )
    return Quantization(path, plan, size)


def _fitting_importance(file: ModelFile[Any], path: str | PathLike[str]) -> ImportanceMatrix:
    importance = read_importance(path)
    for name, columns in importance.columns.items():
        if name in file.specs and len(columns) not in file.info(name).shape[:2]:
            raise ModelFileError(
                f"{path}: has {len(columns)} columns for {name}, the model {file.info(name).shape}"
            )
    if not file.specs.keys() & importance.columns.keys():
        raise ModelFileError(f"{path}: names no tensor of {file.path}; it is of another model")
    return importance


def _metadata(
    file: ModelFile[Any], plan: Plan, importance: ImportanceMatrix | None
) -> dict[str, MetadataValue]:
    metadata = file.metadata()
    metadata[Keys.General.FILE_TYPE] = MetadataValue.of(int(plan.quant.file_type))
    metadata[Keys.General.QUANTIZATION_VERSION] = MetadataValue.of(QUANTIZATION_VERSION)
    metadata[file.format.key(Keys.Quantize.POLICY)] = MetadataValue.of(plan.policy)
    if importance is not None:
        metadata |= {
            Keys.Quantize.IMATRIX_FILE: MetadataValue.of(importance.path.name),
            Keys.Quantize.IMATRIX_DATASET: MetadataValue.of(", ".join(importance.datasets)),
            Keys.Quantize.IMATRIX_ENTRIES: MetadataValue.of(len(importance.columns)),
            Keys.Quantize.IMATRIX_CHUNKS: MetadataValue.of(importance.chunks),
        }
    return metadata


@dataclass(frozen=True)
class _Encoder:
    """Turns rows of the source into rows of the output, several parts at a time, in order."""

    pool: ThreadPoolExecutor
    ahead: int
    file: ModelFile[Any]
    importance: ImportanceMatrix | None

    def source(self, tensor: PlannedTensor) -> TensorSource:
        return TensorSource(
            tensor.spec.name, tensor.shape, tensor.choice.type, lambda: self._parts(tensor)
        )

    def _parts(self, tensor: PlannedTensor) -> Iterator[npt.NDArray[np.uint8]]:
        width = tensor.shape[0]
        rows = int(np.prod(tensor.shape[1:], dtype=np.int64))
        step = max(1, PART_NUMBERS // width)
        waiting: deque[Future[npt.NDArray[np.uint8]]] = deque()
        try:
            for start in range(0, rows, step):
                waiting.append(self.pool.submit(self._part, tensor, start, min(step, rows - start)))
                if len(waiting) >= self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _part(self, tensor: PlannedTensor, start: int, count: int) -> npt.NDArray[np.uint8]:
        info, width, kind = tensor.info, tensor.shape[0], tensor.choice.type
        stored = row_bytes(info.type, width)
        raw = self.file.read_bytes(tensor.spec.name, start * stored, count * stored)
        if not tensor.changes:
            return raw
        values = to_float32(raw, info.type, (width, count))
        if not np.isfinite(values).all():
            raise ModelFileError(f"tensor {info.name} holds values that are not finite numbers")
        return encode_rows(kind, values, self._weights(tensor, width))

    def _weights(self, tensor: PlannedTensor, width: int) -> FloatArray | None:
        if self.importance is None:
            return None
        columns = self.importance.columns.get(tensor.spec.name)
        return columns if columns is not None and len(columns) == width else None
