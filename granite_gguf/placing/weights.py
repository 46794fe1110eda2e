"""Places the weights of a file where the device reads them.

Matrices stay where the file is mapped, in the file's own type, when the CPU computes, unless a
packed or another type's kernel is faster (:mod:`granite_gguf.placing.kernel_choice`); another
device gets a copy. All the rest is small and copied once, as float32: a page of the file brings in
the megabytes around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf import memory
from granite_gguf.arrays import FloatArray
from granite_gguf.ggml import BF16, F16, F32, Runtime, Tensor, WeightBuffer, row_bytes
from granite_gguf.ggml.quants import encode_rows, prepare_encoding
from granite_gguf.placing.finite import check_small, check_stored
from granite_gguf.placing.kernel_choice import AUTO, Kernel, Kernels, Precision
from granite_gguf.spec.derived import DerivedWeights, ReadWeight
from granite_gguf.spec.tensors import Role, Stage, TensorSpec, Trait
from granite_gguf.storage.model_file import ModelFile

_SMALLER = "Use a file of a smaller type (granite-gguf quantize), or free some memory"
_ROWS_AT_A_TIME = 4096  # of a weight whose type is changed, to bound the memory
_HEAD_ROWS = 32  # a head's rows are filled up to a multiple of this, as ggml's fast kernels need it

Derive = Callable[[Any, ReadWeight], DerivedWeights]
"""Computes weights from a file's hyper-parameters and tensors. What it reads is not placed."""


@dataclass(frozen=True)
class _Plan:
    """Matrices that are to be copied, the buffer declared for them, and its packing."""

    kernel: Kernel
    specs: list[TensorSpec]
    buffer: WeightBuffer
    packing: int | None


class ModelWeights(Mapping[str, Tensor]):
    """The weights by name, those of the file and those derived from it.

    Args:
        file: holds them.
        runtime: whose device is to read them.
        precision: what may be rounded.
        derive: computes what the graphs read in place of some tensors.
        low_memory: whether :meth:`let_go` lets go.
        kernels: which may multiply, see :class:`granite_gguf.placing.kernel_choice.Kernels`.

    Attributes:
        kernels: how many matrices each kernel multiplies with, by stage.

    Raises:
        ModelFileError: some hold NaN or infinity.
        OutOfMemoryError: there is no room for them.
        InputError: the device has not got the kernels that were asked for.
    """

    def __init__(
        self,
        file: ModelFile[Any],
        runtime: Runtime,
        precision: Precision,
        derive: Derive,
        *,
        low_memory: bool = False,
        kernels: str = AUTO,
    ) -> None:
        self._file, self._runtime, self._low_memory = file, runtime, low_memory
        self._stack = ExitStack()
        self._tensors: dict[str, Tensor] = {}
        self.kernels: dict[Stage, Counter[str]] = {}
        self._used: dict[str, Kernel] = {}
        choice = Kernels(runtime, precision, kernels)
        mapped: list[TensorSpec] = []
        copied: dict[Kernel, list[TensorSpec]] = {}
        read: set[str] = set()

        def reading(name: str) -> FloatArray:
            read.add(name)
            return file.read(name)

        derived = derive(file.hparams, reading)
        converted = dict(derived.arrays)
        for spec in file.specs.values():
            if spec.name in read or spec.stage is Stage.AUDIO:
                continue
            kind = file.info(spec.name).type
            if spec.role.is_matrix:
                kernel = choice.choose(kind, spec.shape[-2], _padded_rows(spec))
                self.kernels.setdefault(spec.stage, Counter())[str(kernel)] += 1
                self._used[spec.name] = kernel
                as_stored = spec.name not in file.replaced and self._rows(spec) == spec.shape[-1]
                in_place = runtime.maps_host_memory and as_stored
                if in_place and kernel.type is kind and kernel.packing is None:
                    mapped.append(spec)
                else:
                    copied.setdefault(kernel, []).append(spec)
            else:
                converted[spec.name] = file.read(spec.name)
        self._pad_biases(converted)
        check_small(file, converted)
        self._joined = dict(_joinable(derived.joined, copied)) if runtime.apart else {}
        self._mapped = {spec.name for spec in mapped}
        try:
            plans = [
                self._plan(kernel, specs, choice.buffer_types) for kernel, specs in copied.items()
            ]
            plain = self._buffer(len(converted))
            for name, array in converted.items():
                self._tensors[name] = plain.add(name, tuple(reversed(array.shape)), F32)
            self._check_room(plans, plain)
            suspects = self._to_check() - converted.keys()
            self._check_finite(suspects - {spec.name for plan in plans for spec in plan.specs})
            self._map(mapped)
            for plan in plans:
                self._copy(plan, suspects)
            if choice.products is not None:
                products = [name for name, kernel in self._used.items() if kernel.own]
                for name in (*products, *converted):
                    self._tensors[name].multiplier = choice.products
            plain.allocate()
            for name, array in converted.items():
                plain.fill(name, array)
            file.container.release_all()
        except BaseException:
            self.close()
            raise

    def _pad_biases(self, arrays: dict[str, FloatArray]) -> None:
        """Fill up the biases of matrices that get more rows than the file has."""
        for spec in self._products():
            bias = f"{spec.name.removesuffix('.weight')}.bias"
            missing = self._rows(spec) - spec.shape[-1]
            if missing and bias in arrays:
                arrays[bias] = np.pad(arrays[bias], (0, missing))

    def _to_check(self) -> set[str]:
        """The tensors whose damaged numbers the outputs would not show."""
        integer = {
            spec.stage
            for spec in self._products()
            if not (kernel := self._used[spec.name]).own and kernel.type not in (F32, F16, BF16)
        }
        return {
            name
            for name, spec in self._file.specs.items()
            if not spec.role.is_matrix or spec.stage in integer
        }

    def _check_finite(self, names: Iterable[str]) -> None:
        with memory.starting_threads(), ThreadPoolExecutor(self._runtime.threads) as pool:
            _wait_for(pool.map(lambda name: check_stored(self._file, name), names))

    def _products(self) -> Iterator[TensorSpec]:
        return (spec for spec in self._file.specs.values() if spec.role.is_matrix)

    def _rows(self, spec: TensorSpec) -> int:
        """Rows of a matrix in memory: ggml needs those of the head filled up with zeros."""
        return spec.shape[-1] if self._used[spec.name].own else _padded_rows(spec)

    def _buffer(self, capacity: int) -> WeightBuffer:
        buffer = WeightBuffer(self._runtime, capacity)
        self._stack.callback(buffer.close)
        return buffer

    def _map(self, specs: list[TensorSpec]) -> None:
        for file in self._file.container.files:
            here = {
                spec.name: (spec, info)
                for spec in specs
                if self._file.container.holder((info := self._file.info(spec.name)).name) is file
            }
            buffer = self._buffer(len(here))
            for name, (spec, info) in here.items():
                # A pointwise convolution [1, in, out] is the matrix [in, out] over the same bytes.
                shape = spec.shape[-2:] if spec.role is Role.POINTWISE else spec.shape
                self._tensors[name] = buffer.add(name, shape, info.type)
            buffer.map_host(file.data, {name: info.offset for name, (_, info) in here.items()})

    def _plan(
        self, kernel: Kernel, specs: list[TensorSpec], buffer_types: Mapping[str, int]
    ) -> _Plan:
        """Declare matrices that get memory of their own, some of them rows of one."""
        by_name = {spec.name: spec for spec in specs}
        joined = {
            whole: [by_name[name] for name in parts]
            for whole, parts in self._joined.items()
            if parts[0] in by_name
        }
        buffer = self._buffer(len(specs) + len(joined))
        for name, parts in joined.items():
            rows = [spec.shape[-1] for spec in parts]
            whole = buffer.add(name, (parts[0].shape[-2], sum(rows)), kernel.type)
            self._tensors[name] = whole
            starts = accumulate(rows, initial=0)
            for spec, start, count in zip(parts, starts, rows, strict=False):
                del by_name[spec.name]
                self._tensors[spec.name] = buffer.add_rows(spec.name, whole, start, count)
        for spec in by_name.values():
            shape = (spec.shape[-2], self._rows(spec))
            self._tensors[spec.name] = buffer.add(spec.name, shape, kernel.type)
        packing = None if kernel.packing is None else buffer_types[kernel.packing]
        return _Plan(kernel, specs, buffer, packing)

    def _check_room(self, plans: list[_Plan], plain: WeightBuffer) -> None:
        """Refuse a model that does not fit, before any of its memory is asked for.

        Where the file is mapped, its pages need no room: the system can read them again.
        """
        needed = plain.needed() + sum(plan.buffer.needed(plan.packing) for plan in plans)
        purpose = f"{self._file.path}: the model"
        room = self._runtime.device_room(self._runtime.device_handle)
        if room is not None:
            memory.require(needed, purpose, _SMALLER, room=room)
            needed = 0
        # While a matrix changes its form, a thread holds it once more.
        changing = sorted(
            plan.buffer.tensors[spec.name].byte_count
            for plan in plans
            for spec in plan.specs
            if self._changes(spec, plan.kernel)
        )
        needed += sum(changing[-self._runtime.threads :])
        self._runtime.require(needed, purpose, _SMALLER)

    def _copy(self, plan: _Plan, suspects: Container[str]) -> None:
        """Fill a plan's buffer, several matrices at a time, and let go of the file's pages.

        Suspects are checked on the way, so that their pages are needed only once.
        """
        plan.buffer.allocate(plan.packing)
        prepare_encoding(plan.kernel.type)

        def fill(spec: TensorSpec) -> None:
            if spec.name in suspects:
                check_stored(self._file, spec.name)
            plan.buffer.fill(spec.name, self._content(spec, plan.kernel))
            self._file.release(spec.name)

        with memory.starting_threads(), ThreadPoolExecutor(self._runtime.threads) as pool:
            _wait_for(pool.map(fill, plan.specs))

    def _changes(self, spec: TensorSpec, kernel: Kernel) -> bool:
        """Whether a kernel reads other bytes than the file has."""
        return (
            kernel.type is not self._file.info(spec.name).type or self._rows(spec) != spec.shape[-1]
        )

    def _content(self, spec: TensorSpec, kernel: Kernel) -> npt.NDArray[np.uint8]:
        """A matrix's bytes in the kernel's type ``(rows, bytes of a row)``."""
        info = self._file.info(spec.name)
        width, rows, padded = spec.shape[-2], spec.shape[-1], self._rows(spec)
        stored = self._file.raw(spec.name).reshape(rows, -1)
        if not self._changes(spec, kernel):
            return stored
        content = np.zeros((padded, row_bytes(kernel.type, width)), np.uint8)
        if kernel.type is info.type:
            content[:rows] = stored
            return content
        for start in range(0, rows, _ROWS_AT_A_TIME):
            ids = np.arange(start, min(start + _ROWS_AT_A_TIME, rows))
            content[ids] = encode_rows(kernel.type, self._file.read_rows(spec.name, ids))
        return content

    def read_rows(self, name: str, ids: npt.NDArray[np.integer]) -> FloatArray:
        """Some rows of a matrix, decoded to float32 ``(len(ids), width)``."""
        rows = self._file.read_rows(name, ids)
        if name not in self._mapped:
            # A few rows have brought in the megabytes around each.
            self._file.release(name)
        return rows

    def let_go(self, stage: Stage) -> None:
        """Give back the mapped pages of a stage that has run, where memory is to be saved.

        With its weights the system has brought in what lies around them: tensors that were copied
        when the model was loaded, and that nothing reads any more.
        """
        if self._low_memory:
            for name, spec in self._file.specs.items():
                if spec.stage is stage or name not in self._mapped:
                    self._file.release(name)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> None:
        """Give the memory back; the tensors must not be used any more."""
        self._tensors.clear()
        self._stack.close()


def _joinable(
    wanted: Mapping[str, tuple[str, ...]], copied: Mapping[Kernel, list[TensorSpec]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Of matrices that are to be joined, those that are multiplied in the same way."""
    kernels = {spec.name: kernel for kernel, specs in copied.items() for spec in specs}
    for whole, parts in wanted.items():
        if len({kernels.get(name) for name in parts}) == 1 and parts[0] in kernels:
            yield whole, parts


def _padded_rows(spec: TensorSpec) -> int:
    rows = spec.shape[-1]
    return rows + -rows % _HEAD_ROWS if spec.trait is Trait.HEAD else rows


def _wait_for(results: Iterable[None]) -> None:
    """Run through lazy results, so that the first error among them is raised."""
    for _ in results:
        pass
