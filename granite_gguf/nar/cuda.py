"""Passes of the non-autoregressive model on an NVIDIA GPU, in kernels of our own.

The same passes as :class:`granite_gguf.nar.padded.PaddedStages`, from log-mel frames to ids, in
half precision with sums in float32. Every kernel and product is a method of
:class:`granite_gguf.cuda.device.CudaDevice`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from granite_gguf.arrays import AnyArray, FloatArray, Rows, checked_rows
from granite_gguf.cuda.arrays import Array, Heads, Norm
from granite_gguf.cuda.device import CudaDevice
from granite_gguf.errors import InputError
from granite_gguf.ggml import Runtime
from granite_gguf.graph.hypothesis import POOLING_EPS
from granite_gguf.nar.cuda_weights import BEHIND, CudaWeights
from granite_gguf.nar.padded import Kept, cut, filled_up, head_result
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import BEST_PROBABILITIES, Hearing, Stages, Timer
from granite_gguf.placing.finite import check_results
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.spec.hparams import LAYER_NORM_EPS
from granite_gguf.spec.tensors import NLE_NAMES, TOKEN_EMBEDDING
from granite_gguf.stages import characters
from granite_gguf.stages.results import TokenResult
from granite_gguf.stages.shared import NO_TAPS
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer

_LOGIT_ROWS = 2048  # computed at once


class CudaStages(Stages):
    """What a NAR model computes, and passes of many recordings on a GPU."""

    def __init__(
        self,
        file: ModelFile[HParams],
        tokenizer: SpeechTokenizer,
        weights: ModelWeights,
        runtime: Runtime,
        device: CudaDevice,
        placed: CudaWeights,
    ) -> None:
        super().__init__(file, tokenizer, weights, runtime)
        self.device = device
        self._placed: CudaWeights | None = placed

    @property
    def placed(self) -> CudaWeights:
        """The weights.

        Raises:
            InputError: the model is closed.
        """
        if self._placed is None:
            raise InputError("the model is closed")
        return self._placed

    @property
    def max_positions(self) -> int:
        """Rows of audio and text that the editor takes together: no more than attention does."""
        return min(super().max_positions, self.device.most_keys)

    def check_room(self, frames: int) -> None:
        """The device itself tells where it has no room."""

    def close(self) -> None:
        """Compute nothing more, and let go of what is on the device."""
        super().close()
        self._placed = None

    def _heard(self, mel: FloatArray) -> str:
        with self.device.working():
            ids = self._hear(Rows.of([mel]), NO_TAPS).head.ids
        return self.detokenize(self.read_hypothesis(ids)[0])

    @contextmanager
    def hear(self, mel: Rows, taps: frozenset[str], timer: Timer) -> Iterator[Hearing]:
        """As :meth:`granite_gguf.nar.stages.Stages.hear`."""
        with timer("encoder"), self.device.working():
            hearing = self._hear(checked_rows("mel", mel, self.hparams.encoder.input_dim), taps)
        yield hearing

    def _hear(self, mel: Rows, taps: frozenset[str]) -> Hearing:
        h, d, w = self.hparams, self.device, self.placed
        y, lengths = h.hypothesis, mel.counts
        rows, count = max(lengths), len(lengths)
        frames = _Frames(rows, count, d.upload(np.asarray(lengths, np.int32)))
        encoded = self._encode(d.half(d.upload(filled_up(mel))), frames)
        pooled = d.pool(
            encoded.final, encoded.blank, frames.lengths, rows, y.pooling_window, POOLING_EPS
        )
        head, bias = w["enc.bpe_out.weight"], w["enc.bpe_out.bias"]
        best = self._best(pooled, head, bias, y.bpe_vocab, 1.0)
        counts = [-(-length // y.pooling_window) for length in lengths]
        each = -(-rows // y.pooling_window)

        def of_windows(array: AnyArray) -> Rows:
            return cut(array.reshape(count, each, *array.shape[1:]), counts)

        ids, tops, sure = (of_windows(found) for found in best)
        check_results(self._file, "encoder", sure.array)
        means = logits = None
        if "pooled" in taps:
            means = of_windows(d.download(pooled).astype(np.float32))
        if characters.LOGITS in taps:
            vocabulary = h.encoder.ctc_vocab
            made = d.download(d.product(d.half(encoded.final), w["enc.ctc_out.weight"]))
            heard = made[:, :vocabulary].astype(np.float32) + d.download(w["enc.ctc_out.bias"])
            logits = cut(heard.reshape(count, rows, vocabulary), lengths)
        blank = cut(d.download(encoded.blank).reshape(count, rows), lengths)
        # Last, and not waited for: meanwhile the host makes a hypothesis of the ids.
        projected = self._project(encoded.captured, frames)
        windows = -(-rows // h.projector.block_size)
        return Hearing(
            head_result(ids, (tops, sure), means),
            blank,
            logits,
            Kept(projected, windows * h.projector.n_queries, lengths),
        )

    def _encode(self, mel: Array, frames: _Frames) -> _Encoded:
        """The encoder over ``(rows, input_dim)``."""
        e, d, w = self.hparams.encoder, self.device, self.placed
        n, width = mel.shape[0], e.d_model
        x = d.zeros((n, width), np.float32)
        attention = e.n_heads * e.head_dim
        qkv = d.zeros((n + BEHIND, 3 * attention))
        attended = d.empty((n, attention))
        captured = d.empty((n, width * len(e.captured_blocks)))
        d.residual_norm(x, d.product(mel, w["enc.input.weight"]), w["enc.input.bias"])
        self._capture(0, x, captured)
        blank = None
        for number in range(1, e.n_layers + 1):
            p = f"enc.blk.{number - 1}."

            def norm(name: str, p: str = p) -> Norm:
                return w.norm(f"{p}{name}", LAYER_NORM_EPS)

            h = d.residual_norm(x, norm=norm("ff1_norm"))
            y = self._feed_forward(f"{p}ff1", h)
            h = d.residual_norm(x, y, w[f"{p}ff1_down.bias"], 0.5, norm=norm("attn_norm"))
            d.product(h, w[f"{p}attn_qkv.weight"], qkv[:n])
            for start in range(0, frames.rows, e.context_size):
                d.attend(
                    Heads(qkv, 0, frames.rows, e.head_dim),
                    Heads(qkv, attention, frames.rows, e.head_dim),
                    Heads(qkv, 2 * attention, frames.rows, e.head_dim),
                    attended,
                    e.n_heads,
                    1,
                    frames.count,
                    scale=e.head_dim**-0.5,
                    counts=frames.lengths,
                    start=start,
                    length=min(e.context_size, frames.rows - start),
                    relative=w[f"{p}attn_rel_pos.weight"],
                )
            y = d.product(attended, w[f"{p}attn_out.weight"])
            h = d.residual_norm(x, y, w[f"{p}attn_out.bias"], 1.0, norm=norm("conv_norm"))
            y = d.product(h, w[f"{p}conv_up.weight"])
            y = d.glu_bias(y, w[f"{p}conv_up.bias"], frames.lengths, frames.rows)
            y = d.conv_silu(y, w[f"{p}conv_taps"], w[f"{p}conv_shift"], frames.rows)
            y = d.product(y, w[f"{p}conv_down.weight"])
            h = d.residual_norm(x, y, w[f"{p}conv_down.bias"], 1.0, norm=norm("ff2_norm"))
            y = self._feed_forward(f"{p}ff2", h)
            d.residual_norm(x, y, w[f"{p}ff2_down.bias"], 0.5, post=norm("post_norm"))
            feeds_back = number == e.self_conditioning_layer
            if not feeds_back or e.capture_before_feedback:
                self._capture(number, x, captured)
            if feeds_back:
                y = d.product(d.half(x), w["enc.ctc_out.weight"])
                blank = d.posterior(y, w["enc.ctc_out.bias"])
                d.residual_norm(x, d.product(y, w["enc.ctc_mid.weight"]), w["enc.ctc_mid.bias"])
                if not e.capture_before_feedback:
                    self._capture(number, x, captured)
        return _Encoded(captured, x, blank)

    def _capture(self, number: int, x: Array, captured: Array) -> None:
        """Keep the norm of the state behind a layer, if the projector reads that."""
        e, p = self.hparams.encoder, self.hparams.projector
        for k, layer in enumerate(e.captured_blocks):
            if layer == number:
                norm = self.placed.norm(f"proj.layer_norm.{k}", p.layernorm_eps)
                out = captured[:, k * e.d_model : (k + 1) * e.d_model]
                self.device.residual_norm(x, norm=norm, out=out)

    def _feed_forward(self, name: str, h: Array) -> Array:
        d, w = self.device, self.placed
        y = d.silu_bias(d.product(h, w[f"{name}_up.weight"]), w[f"{name}_up.bias"])
        return d.product(y, w[f"{name}_down.weight"])

    def _project(self, captured: Array, frames: _Frames) -> Array:
        """Audio tokens ``(recordings * windows * queries, llm_dim)``, scaled."""
        h, d, w = self.hparams, self.device, self.placed
        p, eps = h.projector, h.projector.layernorm_eps
        windows = -(-frames.rows // p.block_size)
        y = d.product(captured, w["proj.layer_proj.weight"])
        y = d.gelu_windows(
            y, w["proj.layer_proj.bias"], frames.lengths, frames.rows, windows * p.block_size
        )
        keys, x = d.window_inputs(y, w["proj.window_positions"], w["proj.query"])
        added, bias = None, None
        for n in range(p.n_layers):
            block = f"proj.blk.{n}."
            q = d.residual_norm(x, added, bias, norm=w.norm(f"{block}attn_norm", eps))
            attended = d.attend_windows(
                d.product(q, w[f"{block}attn_q.weight"]),
                d.product(keys, w[f"{block}attn_k.weight"]),
                d.product(keys, w[f"{block}attn_v.weight"]),
                [w.get(f"{block}attn_{part}.bias") for part in "qkv"],
                p.n_queries,
                p.block_size,
                p.n_heads,
            )
            y = d.product(attended, w[f"{block}attn_o.weight"])
            q = d.residual_norm(
                x, y, w.get(f"{block}attn_o.bias"), norm=w.norm(f"{block}mlp_norm", eps)
            )
            y = d.product(q, w[f"{block}mlp_fc1.weight"])
            zeros = w.get(f"{block}mlp_fc1.bias")
            y = d.silu_bias(y, d.zeros((y.shape[1],), np.float32) if zeros is None else zeros)
            added = d.product(y, w[f"{block}mlp_fc2.weight"])
            bias = w.get(f"{block}mlp_fc2.bias")
        y = d.residual_norm(x, added, bias, norm=w.norm("proj.out_norm", eps))
        scale = 1.0 / h.editor.embedding_multiplier if p.scale_embeddings else 1.0
        return d.scale_bias(
            d.product(y, w["proj.out_linear.weight"]), w["proj.out_linear.bias"], scale
        )

    def _best(
        self, x: Array, head: Array, bias: Array | None, width: int, scale: float
    ) -> tuple[AnyArray, ...]:
        """Of each row the best id, its logit and its probability, on the host."""
        d, parts = self.device, []
        ends = [*range(0, x.shape[0], _LOGIT_ROWS), x.shape[0]]
        for start, end in pairwise(ends):
            logits = d.product(x[start:end], head, float32=True)
            parts.append(d.best(logits, bias, width, scale))
        return tuple(
            np.concatenate([d.download(part) for part in of]) for of in zip(*parts, strict=True)
        )

    def edit(
        self, hearing: Hearing, which: Sequence[int], slots: Rows, timer: Timer
    ) -> TokenResult[Rows]:
        """As :meth:`granite_gguf.nar.stages.Stages.edit`."""
        if not isinstance(hearing.audio, Kept):
            raise InputError("what was heard is of other stages")
        with timer("editor"), self.device.working():
            return self._edit(hearing.audio, which, slots)

    def _edit(self, kept: Kept, which: Sequence[int], slots: Rows) -> TokenResult[Rows]:
        e, d, w = self.hparams.editor, self.device, self.placed
        plan = kept.gathered(which, slots, self.hparams.projector.downsample_rate)
        inputs = {name: d.upload(array) for name, array in plan.inputs.items()}
        counts = d.upload(np.asarray([of.count for of in plan.recordings], np.int32))
        x = d.rows_of(kept.tokens_in, w[TOKEN_EMBEDDING], inputs["places"], e.embedding_multiplier)
        n, count = x.shape[0], len(plan.recordings)
        queries, keys = e.n_heads * e.head_dim, e.n_kv_heads * e.head_dim
        qkv = d.zeros((n + BEHIND, queries + 2 * keys))
        attended = d.empty((n, queries))
        angles = d.upload(_angles(plan.rows, e.head_dim, e.rope_theta))
        m, eps, added = e.residual_multiplier, e.rms_norm_eps, None
        heads: dict[str, Any] = {
            "heads": e.n_heads,
            "group": e.n_heads // e.n_kv_heads,
            "recordings": count,
        }
        heads |= {"scale": e.attention_multiplier, "counts": counts}
        k, v = (Heads(qkv, queries + part * keys, plan.rows, e.head_dim) for part in range(2))
        for number in range(e.n_layers):
            p = NLE_NAMES.block.format(number)
            h = d.residual_norm(x, added, None, m, norm=w.norm(f"{p}attn_norm", eps))
            weight = w[f"{p}attn_qkv.weight"]
            q = Heads(qkv, 0, plan.rows, e.head_dim)
            d.product(h, weight, qkv[:n])
            d.rope(qkv[:n], e.n_heads + e.n_kv_heads, e.head_dim, inputs["positions"], angles)
            if number == e.n_layers - 1:  # of the last layer only the text is asked for
                x, h = d.some_rows(x, h, inputs["text_places"])
                asked = d.zeros((x.shape[0] + BEHIND, queries))
                d.product(h, weight[:queries], asked[: x.shape[0]])
                d.rope(asked[: x.shape[0]], e.n_heads, e.head_dim, inputs["text_positions"], angles)
                q, attended = Heads(asked, 0, plan.text, e.head_dim), d.empty((x.shape[0], queries))
            d.attend(q, k, v, attended, **heads)
            y = d.product(attended, w[f"{p}{NLE_NAMES.attention_out}.weight"])
            h = d.residual_norm(x, y, None, m, norm=w.norm(f"{p}ffn_norm", eps))
            y = d.swiglu(d.product(h, w[f"{p}ffn_gate_up.weight"]))
            added = d.product(y, w[f"{p}ffn_down.weight"])
        h = d.residual_norm(x, added, None, m, norm=w.norm(NLE_NAMES.norm, eps))
        scale = 1.0 / e.logits_scaling if e.apply_logits_scaling else 1.0
        found = self._best(h, w[TOKEN_EMBEDDING], None, e.vocab_size, scale)
        best, _, sure = found
        result = plan.result(best, sure)
        check_results(self._file, "editor", result.taps[BEST_PROBABILITIES].array)
        return result


@dataclass(frozen=True)
class _Frames:
    """Recordings filled up to the same number of rows; ``lengths`` int32, on the GPU."""

    rows: int
    count: int
    lengths: Array


@dataclass(frozen=True)
class _Encoded:
    """The norms of the captured layers side by side, the final state and the blank's probability.

    The norms are the projector's.
    """

    captured: Array
    final: Array
    blank: Array


def _angles(positions: int, head: int, theta: float) -> FloatArray:
    """Cosine and sine ``(positions, head / 2, 2)`` of what each position turns."""
    speed = theta ** (-np.arange(0, head, 2, dtype=np.float64) / head)
    turned = np.arange(positions)[:, None] * speed
    return np.stack([np.cos(turned), np.sin(turned)], axis=2).astype(np.float32)
