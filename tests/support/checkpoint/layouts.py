"""What each published layout calls the tensors, and how it arranges the rows of the BPE head.

nle                 encoder.*        projector.*        llm.model.*
granite_speech_nar  encoder.*        projector.*        language_model.model.*
native              model.encoder.*  model.projector.*  model.language_model.*  model.out_bpe.*
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from tests.support.checkpoint.safetensors_file import FloatArray, StoredTensor
from tests.support.checkpoint.sizes import ModelSize
from tests.support.checkpoint.weights import model_tensors

LAYOUTS = ("nle", "granite_speech_nar", "native")

BATCHES_TRACKED = 250_000

Rows = Callable[[], Iterator[FloatArray]]

# Canonical prefix -> the layout's; the first that fits is used.
_PREFIXES = {
    "nle": (("llm.", "llm.model."),),
    "granite_speech_nar": (("llm.", "language_model.model."),),
    "native": (
        ("llm.", "model.language_model."),
        ("encoder.out_bpe.", "model.out_bpe."),
        ("encoder.", "model.encoder."),
        ("projector.layer_projector.", "model.projector.proj."),
        ("projector.query", "model.projector.qformer.queries"),
        ("projector.window_positions", "model.projector.qformer.pos_emb"),
        ("projector.out_linear.", "model.projector.qformer.linear."),
        ("projector.", "model.projector."),
    ),
}

_PROJECTOR_NORM = re.compile(r"^projector\..*(layer_norms\.\d+|_norm)\.(weight|bias)$")
_BLANK = "encoder.out_bpe_for_blank."
_HEAD = "encoder.out_bpe."


def key(layout: str, name: str) -> str:
    """Return the key of the tensor called `name` canonically."""
    for prefix, renamed in _PREFIXES[layout]:
        if name.startswith(prefix):
            name = renamed + name.removeprefix(prefix)
            break
    return name.replace(".cross_attention.", ".cross_attn.") if layout == "native" else name


def stored_tensors(
    layout: str, size: ModelSize, seed: int, dtype: str, *, identity_projector_norms: bool
) -> Iterator[StoredTensor]:
    """Yield every tensor of a checkpoint file, floats as `dtype`, in no particular order."""
    tensors = {
        tensor.name: tensor
        for tensor in model_tensors(size, identity_projector_norms=identity_projector_norms)
    }
    for name, tensor in tensors.items():
        shape, parts = tensor.shape, partial(tensor.parts, seed)
        if name.startswith(_BLANK) or (layout == "native" and _PROJECTOR_NORM.match(name)):
            continue
        if name.startswith(_HEAD):
            blank = partial(tensors[name.replace(_HEAD, _BLANK)].parts, seed)
            if layout == "nle":
                shape = (shape[0] + 1, *shape[1:])
                parts = partial(_blank_first, parts, blank)
            else:
                parts = partial(_blank_within, parts, blank, size.vocabulary.eos_id)
        yield StoredTensor(key(layout, name), dtype, shape, parts)
    for n in range(size.encoder.layers):
        name = f"encoder.layers.{n}.conv.batch_norm.num_batches_tracked"
        yield StoredTensor(key(layout, name), "I64", (), lambda: [np.array(BATCHES_TRACKED)])


def _blank_first(tokens: Rows, blank: Rows) -> Iterator[FloatArray]:
    """The blank's row, then those of the tokens: every id is shifted by one."""
    yield from blank()
    yield from tokens()


def _blank_within(tokens: Rows, blank: Rows, blank_id: int) -> Iterator[FloatArray]:
    """The tokens' rows, one of them given to the blank: a token that no transcript contains."""
    first = 0
    for rows in tokens():
        if first <= blank_id < first + len(rows):
            rows[blank_id - first] = next(blank())[0]
        first += len(rows)
        yield rows
