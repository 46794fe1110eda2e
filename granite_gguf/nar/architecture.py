"""The record of the non-autoregressive architecture."""

from granite_gguf.architecture import Architecture
from granite_gguf.graph.encoder import derived_weights
from granite_gguf.graph.granite import joined
from granite_gguf.nar.cuda_weights import reason_against
from granite_gguf.nar.lane import NarLane
from granite_gguf.nar.parity import NAR_PARITY
from granite_gguf.nar.spec import NAR, HParams
from granite_gguf.nar.transcribe_cpp import TranscribeCppNar
from granite_gguf.spec.derived import DerivedWeights, ReadWeight
from granite_gguf.spec.tensors import NLE_NAMES
from granite_gguf.storage.dialects.own import Own


def _derived(h: HParams, read: ReadWeight) -> DerivedWeights:
    derived = derived_weights(h.encoder, read)
    derived.joined.update(joined(NLE_NAMES, h.editor))
    return derived


NAR_ARCHITECTURE = Architecture(
    room="nar",
    format=NAR,
    dialects=(Own(NAR), TranscribeCppNar()),
    derived=_derived,
    lane=NarLane,
    parity=NAR_PARITY,
    without_gpu=reason_against,
)
