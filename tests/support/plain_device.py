"""The operations of :class:`granite_gguf.cuda.device.CudaDevice` in numpy, as float32 has them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from granite_gguf.cuda.arrays import Heads, Norm

Array = Any


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def normal(x: Array, norm: Norm) -> Array:
    if norm.shift is not None:
        x = x - x.mean(axis=1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + norm.eps) * norm.gain
    return x if norm.shift is None else x + norm.shift


class PlainDevice:
    """Everything is float32 here: what half precision rounds away is not this class's to say."""

    most_keys = 1 << 20

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def upload(self, array: Array) -> Array:
        array = np.array(array)
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def matrix(self, parts: Sequence[Array]) -> Array:
        rows = [
            (part.astype(np.uint32) << 16).view(np.float32) if part.dtype == np.uint16 else part
            for part in parts
        ]
        whole = np.concatenate(rows).astype(np.float32)
        return np.pad(whole, tuple((0, -n % 8) for n in whole.shape))

    def wait(self) -> None: ...

    def download(self, array: Array) -> Array:
        return np.array(array)

    def half(self, x: Array) -> Array:
        return x.copy()

    def empty(self, shape: Sequence[int], dtype: type = np.float32) -> Array:
        array = np.empty(shape, np.int32 if dtype is np.int32 else np.float32)
        array[...] = 7  # what is not written is seen
        return array

    def zeros(self, shape: Sequence[int], dtype: type = np.float32) -> Array:
        return np.zeros(shape, np.int32 if dtype is np.int32 else np.float32)

    def product(
        self, x: Array, weight: Array, out: Array | None = None, *, float32: bool = False
    ) -> Array:
        found = x @ weight.T
        if out is None:
            return found
        out[...] = found
        return out

    def residual_norm(
        self,
        x: Array,
        y: Array | None = None,
        bias: Array | None = None,
        scale: float = 1.0,
        *,
        post: Norm | None = None,
        norm: Norm | None = None,
        out: Array | None = None,
    ) -> Array | None:
        if y is not None:
            x += scale * (y if bias is None else y + bias)
        if post is not None:
            x[...] = normal(x, post)
        if norm is None:
            return out
        if out is None:
            out = np.empty_like(x)
        out[...] = normal(x, norm)
        return out

    def silu_bias(self, y: Array, bias: Array) -> Array:
        y += bias
        y *= sigmoid(y)
        return y

    def glu_bias(self, y: Array, bias: Array, lengths: Array, rows: int) -> Array:
        a, b = np.split(y + bias, 2, axis=1)
        present = np.arange(rows) < lengths[:, None]
        return np.where(present.reshape(-1, 1), a * sigmoid(b), 0)

    def swiglu(self, y: Array) -> Array:
        a, b = np.split(y, 2, axis=1)
        return a * sigmoid(a) * b

    def gelu_windows(
        self, y: Array, bias: Array, lengths: Array, rows: int, out_rows: int
    ) -> Array:
        y = y + bias
        tanh = np.vectorize(__import__("math").erf, otypes=[np.float32])
        y = (0.5 * y * (1 + tanh(y / np.sqrt(2)))).reshape(len(lengths), rows, -1)
        out = np.zeros((len(lengths), out_rows, y.shape[2]), np.float32)
        for of, frames, length in zip(out, y, lengths, strict=True):
            of[:length] = frames[:length]
        return out.reshape(-1, y.shape[2])

    def scale_bias(self, y: Array, bias: Array, scale: float) -> Array:
        y += bias
        y *= scale
        return y

    def conv_silu(self, x: Array, taps: Array, shift: Array, rows: int) -> Array:
        out = np.zeros_like(x)
        reach = len(taps) // 2
        for start in range(0, len(x), rows):
            padded = np.pad(x[start : start + rows], ((reach, reach), (0, 0)))
            found = sum(tap * padded[k : k + rows] for k, tap in enumerate(taps)) + shift
            out[start : start + rows] = found * sigmoid(found)
        return out

    def posterior(self, y: Array, bias: Array) -> Array:
        width = len(bias)
        p = np.exp(y[:, :width] + bias - (y[:, :width] + bias).max(axis=1, keepdims=True))
        y[:, :width] = p / p.sum(axis=1, keepdims=True)
        y[:, width:] = 0
        return y[:, 0].copy()

    def pool(
        self, x: Array, blank: Array, lengths: Array, rows: int, window: int, eps: float
    ) -> Array:
        windows = -(-rows // window)
        speech = 1 - blank.reshape(len(lengths), rows)
        speech = np.where(np.arange(rows) < lengths[:, None], speech, 0)
        missing = windows * window - rows
        speech = np.pad(speech, ((0, 0), (0, missing)))[:, :, None]
        x = np.pad(x.reshape(len(lengths), rows, -1), ((0, 0), (0, missing), (0, 0))) * speech
        shape = (len(lengths) * windows, window, -1)
        return x.reshape(shape).sum(axis=1) / (speech.reshape(shape).sum(axis=1) + eps)

    def best(
        self, logits: Array, bias: Array | None, width: int, scale: float = 1.0
    ) -> tuple[Array, Array, Array]:
        kept = logits[:, :width] if bias is None else logits[:, :width] + bias
        top = kept.max(axis=1)
        probability = 1 / np.exp(scale * (kept - top[:, None])).sum(axis=1)
        return kept.argmax(axis=1).astype(np.int32), top, probability

    def rows_of(self, first: Array, second: Array, numbers: Array, factor: float) -> Array:
        return np.concatenate([first, second])[numbers] * np.float32(factor)

    def some_rows(self, x: Array, h: Array, numbers: Array) -> tuple[Array, Array]:
        return x[numbers], h[numbers]

    def rope(self, y: Array, heads: int, head: int, positions: Array, angles: Array) -> None:
        half = head // 2
        turned = y[:, : heads * head].reshape(len(y), heads, 2, half)
        cosine, sine = angles[positions, None, :, 0], angles[positions, None, :, 1]
        a, b = turned[:, :, 0].copy(), turned[:, :, 1].copy()
        found = np.stack([a * cosine - b * sine, b * cosine + a * sine], axis=2)
        y[:, : heads * head] = found.reshape(len(y), -1)

    def attend(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        out: Array,
        heads: int,
        group: int,
        recordings: int,
        *,
        scale: float,
        counts: Array | None = None,
        start: int = 0,
        length: int | None = None,
        relative: Array | None = None,
    ) -> None:
        queries = q.rows if length is None else length
        keys = k.rows if length is None else length
        for n in range(recordings):
            count = keys if counts is None else min(keys, int(counts[n]) - start)
            count = count if count > 0 else keys
            for head in range(heads):

                def of(part: Heads, number: int, n: int = n) -> Array:
                    column, first = part.column + number * part.head, n * part.rows + start
                    rows = queries if part is q else keys
                    return part.array[first : first + rows, column : column + part.head]

                query = of(q, head)
                scores = query @ of(k, head // group).T
                if relative is not None:
                    reach = (len(relative) - 33) // 2
                    distance = np.arange(queries)[:, None] - np.arange(keys) + reach
                    scores += np.einsum("qd,qkd->qk", query, relative[distance])
                scores = scores[:, :count] * scale
                p = np.exp(scores - scores.max(axis=1, keepdims=True))
                p /= p.sum(axis=1, keepdims=True)
                first = n * q.rows + start
                columns = slice(head * q.head, (head + 1) * q.head)
                out[first : first + queries, columns] = p @ of(v, head // group)[:count]

    def window_inputs(self, frames: Array, positions: Array, learned: Array) -> tuple[Array, Array]:
        (size, width), queries = positions.shape, len(learned)
        windows = frames.reshape(-1, size, width)
        means = windows.reshape(len(windows), queries, size // queries, width).mean(axis=2)
        return (windows + positions).reshape(-1, width), (means + learned).reshape(-1, width)

    def attend_windows(
        self,
        q: Array,
        k: Array,
        v: Array,
        biases: Sequence[Array | None],
        queries: int,
        size: int,
        heads: int,
    ) -> Array:
        head = q.shape[1] // heads

        def split(x: Array, bias: Array | None, rows: int) -> Array:
            x = x if bias is None else x + bias
            return x.reshape(-1, rows, heads, head).transpose(0, 2, 1, 3)

        rows = (queries, size, size)
        a, b, c = (split(*of) for of in zip((q, k, v), biases, rows, strict=True))
        scores = a @ b.transpose(0, 1, 3, 2) * head**-0.5
        p = np.exp(scores - scores.max(axis=3, keepdims=True))
        found = p / p.sum(axis=3, keepdims=True) @ c
        return found.transpose(0, 2, 1, 3).reshape(q.shape)
