"""Operations of several tensors: products, attention, convolution."""

from __future__ import annotations

from collections.abc import Sequence

import ggml as c

from granite_gguf.ggml.products import Norm, Then
from granite_gguf.ggml.tensor import Activation, Tensor, check, fits_as_mask
from granite_gguf.ggml.types import F16, F32, I32


def mul_mat(weight: Tensor, x: Tensor) -> Tensor:
    """Multiply ``weight [in, out]`` with ``x [in, T]`` into ``[out, T]``.

    Dimensions 2 and 3 are batches; those of ``weight`` are repeated to those of ``x``.
    """
    check(
        weight.ne[0] == x.ne[0]
        and x.ne[2] % weight.ne[2] == 0
        and x.ne[3] % weight.ne[3] == 0
        and x.type == F32
        and weight.rows_contiguous
        and x.rows_contiguous,
        "mul_mat",
        weight,
        x,
    )
    if weight.multiplier is not None:
        return weight.multiplier.multiply(weight, x, None, Activation.NONE)
    return x.new(c.ggml_mul_mat(x.context.take(), weight.handle, x.handle))


def linear(
    weight: Tensor, x: Tensor, bias: Tensor | None, activation: Activation = Activation.NONE
) -> Tensor:
    """``activation(weight x + bias)``, with ``weight [in, out]``, ``x [in, T]``, ``bias [out]``."""
    check(activation is not Activation.GATE, "linear with a gate", weight)
    if weight.multiplier is not None:
        return weight.multiplier.multiply(weight, x, bias, activation)
    y = mul_mat(weight, x)
    y = y if bias is None else y + bias
    return y.silu() if activation is Activation.SILU else y


def gated_linear(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """The first half of each column of ``weight x + bias`` times the sigmoid of the second."""
    half = weight.ne[1] // 2
    if weight.multiplier is not None:
        y = weight.multiplier.multiply(weight, x, bias, Activation.GATE)
        return y.columns(0, half) * y.columns(half, half)
    y = linear(weight, x, bias)
    # Not every device's sigmoid reads rows that lie apart.
    return y.columns(0, half) * y.columns(half, half).contiguous_copy().sigmoid()


def products_together(
    weights: Sequence[Tensor],
    x: Tensor,
    norm: Norm | None = None,
    then: Then = Then.NOTHING,
    to: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor | None:
    """As :meth:`Products.together`, or None where that is not to be had."""
    multipliers = [weight.multiplier for weight in weights]
    if multipliers[0] is None or None in multipliers or x.context.watched:
        return None
    return multipliers[0].together(weights, x, norm, then, to, scale)


def normed(x: Tensor, norm: Norm) -> Tensor:
    """The normed columns of ``x [in, T]``."""
    if norm.weight.multiplier is not None:
        return norm.weight.multiplier.norm(x, norm)
    if norm.shift is None:
        return x.rms_norm(norm.eps) * norm.weight
    return x.norm(norm.eps) * norm.weight + norm.shift


def normed_swiglu(gate: Tensor, up: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """``silu(gate n) * up n`` of the normed columns n of ``x [in, T]``."""
    if (whole := products_together([up, gate], x, norm, Then.GATED)) is not None:
        return whole
    x = normed(x, norm)
    if gate.multiplier is None:
        return swiglu(linear(gate, x, None), linear(up, x, None))
    return linear(up, x, None) * linear(gate, x, None, Activation.SILU)


def added_product(
    weight: Tensor, x: Tensor, scale: float, to: Tensor, bias: Tensor | None = None
) -> Tensor:
    """``scale * (weight x + bias) + to``."""
    if bias is None:
        few = products_together([weight], x, None, Then.ADDED, to, scale)
        if few is not None:
            return few
    if weight.multiplier is not None:
        return weight.multiplier.multiply(weight, x, bias, Activation.NONE, to, scale)
    y = linear(weight, x, bias)
    return to + (y if scale == 1.0 else y * scale)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """``softmax(scale * k q + mask) v`` head by head, without keeping the scores of all pairs.

    Args:
        q: ``[head_dim, queries, heads, batch]``.
        k: ``[head_dim, keys, kv_heads, batch]``; a key head serves ``heads / kv_heads`` queries'.
        v: like ``k``. Values of F16 are also summed in F16.
        mask: F16 ``[keys, queries]`` or ``[keys, queries, 1, batch]``, 0 or minus infinity.

    Returns:
        ``[head_dim, heads, queries, batch]``.
    """
    check(
        q.type == F32
        and k.type == v.type
        and k.type in (F32, F16)
        and fits_as_mask(mask, k.ne[1], q.ne[1], q.ne[3])
        and q.ne[0] == k.ne[0] == v.ne[0]
        and k.ne == v.ne
        and q.ne[2] % k.ne[2] == 0
        and q.ne[3] == k.ne[3]
        and q.rows_contiguous
        and k.rows_contiguous
        and v.rows_contiguous,
        "flash_attention",
        q,
        k,
        v,
        mask,
    )
    masked = None if mask is None else mask.handle
    return q.new(
        c.ggml_flash_attn_ext(
            q.context.take(), q.handle, k.handle, v.handle, masked, scale, 0.0, 0.0
        )
    )


def concat(tensors: Sequence[Tensor], dim: int, near: Tensor | None = None) -> Tensor:
    """Join tensors that differ only in dimension ``dim``; a single one is itself.

    Args:
        tensors: F32.
        dim: of a matrix, or one further.
        near: a weight that is used near by: what multiplies with it joins them, too.
    """
    before, behind = tensors[0].ne[:dim], tensors[0].ne[dim + 1 :]
    check(
        all(t.type == F32 and t.ne == (*before, t.ne[dim], *behind) for t in tensors),
        f"concat {dim}",
        *tensors,
    )
    if near is not None and near.multiplier is not None:
        return near.multiplier.concat(tensors, dim)
    result = tensors[0]
    for other in tensors[1:]:
        result = result.new(c.ggml_concat(result.context.take(), result.handle, other.handle, dim))
    return result


def argmax(x: Tensor) -> Tensor:
    """The place of the largest number of each row of a matrix, I32 ``[rows]``."""
    check(x.type == F32 and x.contiguous and x.ne[2] == x.ne[3] == 1, "argmax", x)
    return x.new(c.ggml_argmax(x.context.take(), x.handle))


def numbers_at(x: Tensor, places: Tensor) -> Tensor:
    """One number of each row of a matrix, ``[1, rows]``.

    Args:
        x: ``[width, rows]``.
        places: I32 ``[rows]``, as from :func:`argmax` of a matrix of this shape.
    """
    check(
        x.type == F32
        and x.contiguous
        and x.ne[2] == x.ne[3] == 1
        and places.type == I32
        and places.contiguous
        and places.ne == (x.ne[1], 1, 1, 1),
        "numbers_at",
        x,
        places,
    )
    rows, ids = x.reshape(1, *x.ne[:2]), places.reshape(1, x.ne[1])
    each = x.new(c.ggml_get_rows(x.context.take(), rows.handle, ids.handle))
    return each.reshape(1, x.ne[1])


def rows_at(x: Tensor, places: Tensor) -> Tensor:
    """Rows of a matrix by their numbers, F32 ``[width, n]``.

    Args:
        x: ``[width, rows]``.
        places: I32 ``[n]``, an input that is known to be ``below`` the row count.
    """
    check(
        x.type == F32
        and x.contiguous
        and x.ne[2] == x.ne[3] == 1
        and places.type == I32
        and places.ne == (places.ne[0], 1, 1, 1)
        and places.below is not None
        and places.below <= x.ne[1],
        "rows_at",
        x,
        places,
    )
    return x.new(c.ggml_get_rows(x.context.take(), x.handle, places.handle))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    check(
        gate.ne == up.ne and gate.type == up.type == F32 and gate.contiguous and up.contiguous,
        "swiglu",
        gate,
        up,
    )
    return gate.new(c.ggml_swiglu_split(gate.context.take(), gate.handle, up.handle))


def swiglu_halves(x: Tensor) -> Tensor:
    """``silu`` of the first half of each row times the second."""
    check(x.type == F32 and x.contiguous and x.ne[0] % 2 == 0, "swiglu_halves", x)
    return x.new(c.ggml_swiglu(x.context.take(), x.handle))


def depthwise_conv(kernel: Tensor, x: Tensor) -> Tensor:
    """Convolve each channel of ``x [channels, T, batch]`` with its own taps, zero-padded to T.

    ``kernel`` is F32 ``[channels, taps]`` with an odd number of taps: the order in which ggml's
    direct kernel runs over contiguous channels without transposing anything.
    """
    channels, taps = kernel.ne[:2]
    frames, batch = x.ne[1:3]
    check(
        kernel.type == x.type == F32
        and kernel.contiguous
        and x.contiguous
        and x.ne == (channels, frames, batch, 1)
        and taps % 2 == 1,
        "depthwise_conv",
        kernel,
        x,
    )
    kernel = kernel.beside(x)
    if frames == 1:
        # One frame counts as contiguous in every order, and ggml would misread the kernel.
        return x * kernel.rows(taps // 2, 1)
    row = kernel.nb[1]
    # Time lies in the image's height, which ggml divides among threads; the width is 1.
    # ne = [1, taps, 1, channels] and [1, T, channels, batch], channels contiguous in memory
    taps_high = kernel.view([channels, 1, taps, 1], [row, row, row]).permute(3, 0, 1, 2)
    frames_high = x.view([channels, 1, frames, batch], [2 * x.nb[0], row, frames * row])
    frames_high = frames_high.permute(2, 0, 1, 3)
    convolved = x.new(
        c.ggml_conv_2d_dw_direct(
            x.context.take(), taps_high.handle, frames_high.handle, 1, 1, 0, taps // 2, 1, 1
        )
    )
    result = convolved.permute(2, 1, 0, 3)  # ne = [channels, T, 1, batch]
    check(
        result.ne == (channels, frames, 1, batch) and result.contiguous, "depthwise_conv", result, x
    )
    return result.reshape(channels, frames, batch)


def depthwise_conv_silu(kernel: Tensor, x: Tensor, shift: Tensor) -> Tensor:
    """``silu`` of :func:`depthwise_conv` and a ``shift [channels]``."""
    if kernel.multiplier is not None:
        convolved = kernel.multiplier.convolve(kernel, x, shift)
        if convolved is not None:
            return convolved
    return (depthwise_conv(kernel, x) + shift).silu()
