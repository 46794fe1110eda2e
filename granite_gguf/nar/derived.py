"""What is computed from a NAR model's tensors when it is loaded."""

from __future__ import annotations

from granite_gguf.graph.encoder import derived_weights
from granite_gguf.graph.granite import joined
from granite_gguf.nar.spec import HParams
from granite_gguf.spec.derived import DerivedWeights, ReadWeight
from granite_gguf.spec.tensors import NLE_NAMES


def derive(h: HParams, read: ReadWeight) -> DerivedWeights:
    """The encoder's derived weights, and the matrices of all stages that may be joined."""
    derived = derived_weights(h.encoder, read)
    derived.joined.update(joined(NLE_NAMES, h.editor))
    return derived
