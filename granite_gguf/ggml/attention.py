"""Attention by kernels of our own."""

from __future__ import annotations

import ctypes
from typing import Any

from granite_gguf.ggml.kernels import (
    VECTOR,
    Attention,
    custom,
    kernels_compiled,
    library,
    offsets,
    table,
)
from granite_gguf.ggml.tensor import Tensor, check, fits_as_mask
from granite_gguf.ggml.types import F16, F32, I32

_ALIGNMENT = 64  # of a thread's room


def attends(q: Tensor) -> bool:
    """Whether :func:`attend_few` takes queries of such heads."""
    return kernels_compiled() and q.ne[0] % VECTOR == 0 and q.ne[3] == 1


def attend_few(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    kernel: str | None = None,
    new: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """As :func:`granite_gguf.ggml.flash_attention` without batches, each query by itself: its
    numbers do not depend on other queries, nor on keys that it does not see. Sums are in float32.

    Args:
        kernel: whose attention, or that of the next one that has any; by default the best.
        new: keys and values of the queries' own positions, F32 ``[head_dim, queries, kv_heads]``,
            and these positions, I32 ``[queries]`` that are known to be ``below`` the keys: they are
            written into ``k`` and ``v`` before, where later graphs find them.

    Returns:
        ``[head_dim, heads, queries]``.
    """
    check(
        attends(q)
        and q.type == F32
        and k.type == v.type
        and k.type in (F32, F16)
        and fits_as_mask(mask, k.ne[1], q.ne[1])
        and q.ne[0] == k.ne[0]
        and k.ne == v.ne
        and k.ne[3] == 1
        and q.ne[2] % k.ne[2] == 0
        and q.rows_contiguous
        and k.rows_contiguous
        and v.rows_contiguous
        and (new is None or (mask is not None and _fits_as_new(*new, q, k))),
        "attend_few",
        q,
        k,
        v,
        mask,
    )
    head_dim, queries, heads = q.ne[:3]
    stride = -(-k.ne[1] // VECTOR) * VECTOR
    job = Attention(
        **_heads(q, k, v, scale),
        masked=mask is not None,
        score_stride=stride,
        keeps=new is not None,
        kernel=library().kernels_attention(table()[kernel] if kernel else 0),
    )
    sources = [q, k, v] if mask is None else [q, k, v, mask]
    if new is not None:
        job.new_k_row, job.new_k_head = new[0].nb[1:3]
        job.new_v_row, job.new_v_head = new[1].nb[1:3]
        sources += new
    size = (head_dim + stride) * heads * queries  # the scores lie behind the result
    whole = custom(q, F32, size, sources, "kernels_attend", job)
    return whole.view([head_dim, heads, queries], [4 * head_dim, 4 * head_dim * heads])


def attend_many(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    distances: Tensor | None = None,
    *,
    kernel: str,
    threads: int,
) -> Tensor | None:
    """``softmax(scale * (k q + d q) + mask) v`` head by head; scores never leave a core's cache.

    Args:
        q: ``[head_dim, queries, heads, batch]``.
        k: ``[head_dim, keys, kv_heads, batch]``; a key head serves ``heads / kv_heads`` queries'.
        v: like ``k``.
        mask: F16 ``[keys, queries]`` or ``[keys, queries, 1, batch]``, 0 or minus infinity.
        distances: d, ``[head_dim, rows]``: query i meets key j at row ``queries - 1 - i + j``.
        kernel: whose attention, or that of the next one where it has none and says so.
        threads: the most that will compute.

    Returns:
        ``[head_dim, heads, queries, batch]``, or None where there is no such kernel.
    """
    head_dim, queries, heads, batch = q.ne
    keys = k.ne[1]
    check(
        q.type == F32
        and k.type == v.type
        and k.type in (F32, F16)
        and fits_as_mask(mask, keys, queries, batch)
        and q.ne[0] == k.ne[0]
        and k.ne == v.ne
        and k.ne[3] == batch
        and heads % k.ne[2] == 0
        and q.rows_contiguous
        and k.rows_contiguous
        and v.rows_contiguous
        and (
            distances is None
            or (
                distances.type == F32
                and distances.contiguous
                and distances.ne[0] == head_dim
                and distances.ne[1] >= queries + keys - 1
            )
        ),
        "attend_many",
        q,
        k,
        v,
        mask,
        distances,
    )
    if head_dim % VECTOR:
        return None
    job = Attention(
        **_heads(q, k, v, scale),
        masked=0 if mask is None else 1 + (mask.ne[3] > 1),
        batches=batch,
        q_batch=q.nb[3],
        k_batch=k.nb[3],
        v_batch=v.nb[3],
        distances=0 if distances is None else distances.ne[1],
        threads=threads,
    )
    if not library().kernels_attention_many(table()[kernel], ctypes.byref(job)):
        return None
    sources = [q, k, v, *(x for x in (distances, mask) if x is not None)]
    size = head_dim * heads * queries * batch
    room = (_ALIGNMENT + threads * job.room_bytes) // 4
    whole = custom(q, F32, size + room, sources, "kernels_attend_many", job)
    row = 4 * head_dim
    strides = [row, row * heads, row * heads * queries]
    return whole.view([head_dim, heads, queries, batch], strides)


def _fits_as_new(k: Tensor, v: Tensor, at: Tensor, q: Tensor, kept: Tensor) -> bool:
    return (
        k.type == v.type == F32
        and k.ne == v.ne == (q.ne[0], q.ne[1], kept.ne[2], 1)
        and k.rows_contiguous
        and v.rows_contiguous
        and at.type == I32
        and at.ne == (q.ne[1], 1, 1, 1)
        and at.below is not None
    )


def _heads(q: Tensor, k: Tensor, v: Tensor, scale: float) -> dict[str, Any]:
    return {
        **offsets(),
        "head_dim": q.ne[0],
        "queries": q.ne[1],
        "heads": q.ne[2],
        "group": q.ne[2] // k.ne[2],
        "keys": k.ne[1],
        "type": int(k.type),
        "q_row": q.nb[1],
        "q_head": q.nb[2],
        "k_row": k.nb[1],
        "k_head": k.nb[2],
        "v_row": v.nb[1],
        "v_head": v.nb[2],
        "scale": scale,
    }
