"""A non-autoregressive model's weights on an NVIDIA GPU, and whether our kernels can use them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from granite_gguf.arrays import AnyArray
from granite_gguf.cuda.arrays import Array, Norm
from granite_gguf.cuda.device import CudaDevice
from granite_gguf.cuda.gpu import Gpu
from granite_gguf.errors import UnsupportedModelError
from granite_gguf.ggml import BF16, F16, F32
from granite_gguf.graph.encoder import nearest_positions
from granite_gguf.nar.derived import derive
from granite_gguf.nar.spec import HParams
from granite_gguf.spec.tensors import Stage
from granite_gguf.storage.model_file import ModelFile

BEHIND = 16  # rows that attention may read behind the last one
_WIDTHS = 8  # what widths are multiples of
_WINDOW = 32  # rows of a Q-Former's window
_FLOATS = {F32: np.float32, F16: np.float16, BF16: np.uint16}


class CudaWeights:
    """A file's weights on a GPU: matrices ``(out, in)`` in float16, all else in float32.

    Their rows and columns are filled up with zeros to a multiple of 8.

    Args:
        file: holds them.
        device: where they go.
        threads: that decode them.
    """

    def __init__(self, file: ModelFile[HParams], device: CudaDevice, threads: int) -> None:
        self._found: dict[str, Array] = {}
        with device.working():
            self._place(file, device, threads)
            device.wait()
        file.container.release_all()

    def _place(self, file: ModelFile[HParams], device: CudaDevice, threads: int) -> None:
        h = file.hparams
        derived = derive(h, file.read)
        for name, array in derived.arrays.items():
            if not name.endswith("attn_distance"):
                self._found[name] = device.upload(array)
        wanted = dict(derived.joined)
        parts = {part for names in wanted.values() for part in names}
        for name, spec in file.specs.items():
            if spec.stage is Stage.AUDIO or name in parts:
                continue
            if spec.role.is_matrix:
                wanted[name] = (name,)
            elif name.endswith("attn_rel_pos.weight"):
                near = nearest_positions(h.encoder, file.read(name))
                behind = np.zeros((2 * BEHIND, near.shape[1]), np.float32)
                self._found[name] = device.upload(np.concatenate([near, behind]).astype(np.float16))
            else:
                self._found[name] = device.upload(file.read(name))
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(wanted), threads):
                names = list(wanted)[start : start + threads]
                read = pool.map(lambda whole: [_stored(file, of) for of in wanted[whole]], names)
                for name, stored in zip(names, read, strict=True):
                    placed = device.matrix(stored)
                    if placed is None:
                        raise UnsupportedModelError(
                            f"{file.path}: tensor {file.info(wanted[name][0]).name} holds numbers "
                            "beyond half precision. Use --kernels ggml"
                        )
                    self._found[name] = placed

    def __getitem__(self, name: str) -> Array:
        return self._found[name]

    def get(self, name: str) -> Array | None:
        """A weight that not every model has."""
        return self._found.get(name)

    def norm(self, name: str, eps: float) -> Norm:
        """A layer norm, or one without a shift."""
        return Norm(self[f"{name}.weight"], self.get(f"{name}.bias"), eps)


def _stored(file: ModelFile[HParams], name: str) -> AnyArray:
    """A matrix ``(out, in)`` as it lies in the file, or decoded: bfloat16 numbers as their bits."""
    kind = file.info(name).type
    stored = file.raw(name).view(_FLOATS[kind]) if kind in _FLOATS else file.read(name)
    return stored.reshape(file.specs[name].shape[-1], -1)


def reason_against(h: HParams) -> str | None:
    """Why a model cannot be computed so, if it cannot."""
    e, p, g = h.encoder, h.projector, h.editor
    widths = (e.d_model, e.ff_dim, e.conv_dim, e.input_dim, p.hidden_size, g.d_model, g.ff_dim)
    if e.head_dim % 32 or g.head_dim % 32:
        return f"its heads are {e.head_dim} and {g.head_dim} wide, expected multiples of 32"
    if any(width % _WIDTHS for width in widths):
        return f"its widths are {widths}, expected multiples of {_WIDTHS}"
    if p.block_size > _WINDOW or p.block_size % p.n_queries:
        return f"its windows have {p.block_size} frames, expected at most {_WINDOW}"
    return None if e.conv_kernel % 2 else f"its convolution has {e.conv_kernel} taps"


def open_device(h: HParams, gpu: Gpu) -> CudaDevice:
    """A GPU with what the model's kernels are compiled for."""
    widest = max(h.encoder.d_model, h.projector.hidden_size, h.editor.d_model)
    return CudaDevice(h.encoder.conv_kernel, widest, gpu)
