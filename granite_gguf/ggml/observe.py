"""Watches what flows into the matrices of a graph while it runs."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ggml as c
import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray
from granite_gguf.ggml.runtime import UNWATCHED, Runtime
from granite_gguf.ggml.types import F32, GGMLType

_PRODUCTS = (c.GGML_OP_MUL_MAT, c.GGML_OP_CUSTOM)  # the latter are ours

_Squares = tuple[npt.NDArray[np.float64], int]

Observed = dict[str, _Squares]
"""By weight: the sum of squares of each input column ``(width,)``, and how many rows."""


@contextmanager
def observe_inputs(runtime: Runtime, weights: Collection[str]) -> Iterator[Observed]:
    """Sum the squared inputs of the matrix products with some weights, while the block runs.

    Graphs run slower meanwhile, and with the same results. The yielded mapping fills as they run.

    Raises:
        Exception: whatever went wrong while an input was read, after the block.
    """
    observed: Observed = {}
    errors: list[Exception] = []
    # ggml cuts names to 63 characters, so a weight is known by its beginning.
    names = {name.encode()[: c.GGML_MAX_NAME - 1]: name for name in weights}

    # What is packed for products is read then: its memory may be another's when they come.
    packed: dict[int, _Squares] = {}

    def on_node(node: Any, asking: bool, _user_data: Any) -> bool:
        fields = node.contents
        if fields.op not in _PRODUCTS:
            return not asking
        name = names.get(bytes(fields.src[0].contents.name))
        packs = fields.op == c.GGML_OP_CUSTOM and not fields.src[1]
        # What attention packs lies between other heads; it is no input of a weight.
        if name is None and not (packs and c.ggml_is_contiguous(fields.src[0])):
            return not asking
        if not asking:
            try:
                if name is None:
                    packed[_address(node)] = _squares(_read(fields.src[0]))
                elif fields.op == c.GGML_OP_CUSTOM:
                    _add(observed, name, packed[_address(fields.src[1])])
                else:
                    _add(observed, name, _squares(_read(fields.src[1])))
            except Exception as error:  # an exception cannot cross ggml
                errors.append(error)
        return True

    with _watching(runtime, on_node):
        yield observed
    if errors:
        raise errors[0]


@contextmanager
def _watching(runtime: Runtime, on_node: Callable[[Any, bool, Any], bool]) -> Iterator[None]:
    """Call back for every node, before and after it, while the block runs."""
    runtime.watcher = c.ggml_backend_sched_eval_callback(on_node)
    try:
        yield
    finally:
        runtime.watcher = UNWATCHED


def _read(handle: Any) -> FloatArray:
    fields = handle.contents
    if GGMLType(fields.type) is not F32 or not c.ggml_is_contiguous(handle):
        raise AssertionError("the input of a matrix is not contiguous float32")
    width = int(fields.ne[0])
    array = np.empty((c.ggml_nelements(handle) // width, width), np.float32)
    c.ggml_backend_tensor_get(handle, array.ctypes.data, 0, array.nbytes)
    return array


def _address(handle: Any) -> int:
    return ctypes.addressof(handle.contents)


def _squares(rows: FloatArray) -> _Squares:
    return np.einsum("ij,ij->j", rows, rows, dtype=np.float64), len(rows)


def _add(observed: Observed, name: str, squares: _Squares) -> None:
    sums, count = observed.get(name, (0.0, 0))
    observed[name] = (sums + squares[0], count + squares[1])


class ProductShape(NamedTuple):
    """A matrix product ``[width, rows]`` with ``columns``; ``weight`` if it multiplies a weight."""

    weight: bool
    kind: GGMLType
    width: int
    rows: int
    columns: int

    @property
    def flops(self) -> float:
        return 2.0 * self.width * self.rows * self.columns


@contextmanager
def observe_products(runtime: Runtime, weights: Collection[str]) -> Iterator[Counter[ProductShape]]:
    """Count the matrix products that run inside the block, those of fused attention included."""
    names = {name.encode()[: c.GGML_MAX_NAME - 1] for name in weights}
    counted: Counter[ProductShape] = Counter()

    def on_node(node: Any, asking: bool, _user_data: Any) -> bool:
        if asking:
            _count(counted, node.contents, names)
        return not asking

    with _watching(runtime, on_node):
        yield counted


def _count(counted: Counter[ProductShape], node: Any, names: Collection[bytes]) -> None:
    custom = node.op == c.GGML_OP_CUSTOM and bool(node.src[1])
    # What is packed for a product is bytes; attention of ours has keys there and values like them,
    # a convolution its taps and a shift.
    packed = custom and node.src[1].contents.type == c.GGML_TYPE_I8
    attends = custom and not packed and _alike(node.src[1], node.src[2])
    if packed:
        matrix, ne = node.src[0].contents, node.src[1].contents.src[0].contents.ne
        kind = GGMLType(matrix.type)
        weight = bytes(matrix.name) in names
        shape = ProductShape(weight, kind, matrix.ne[0], matrix.ne[1], ne[1])
        counted[shape] += ne[2] * ne[3]
    elif node.op == c.GGML_OP_MUL_MAT:
        matrix, ne = node.src[0].contents, node.ne
        weight = bytes(matrix.name) in names
        kind = GGMLType(matrix.type)
        shape = ProductShape(weight, kind, matrix.ne[0], ne[0], ne[1])
        counted[shape] += ne[2] * ne[3]
    elif attends or node.op == c.GGML_OP_FLASH_ATTN_EXT:
        query, key = node.src[0].contents, node.src[1].contents
        head_dim, queries, heads, batch = list(query.ne)
        counted[ProductShape(False, F32, head_dim, key.ne[1], queries)] += 2 * heads * batch
        further = node.src[3].contents if node.src[3] else None
        if attends and further and further.type == c.GGML_TYPE_F32:  # a mask is F16
            shape = ProductShape(False, F32, head_dim, further.ne[1], queries)  # with distances
            counted[shape] += heads * batch


def _alike(a: Any, b: Any) -> bool:
    return bool(b) and bool(c.ggml_are_same_shape(a, b))
