"""The record of the non-autoregressive architecture."""

from granite_gguf.architecture import Architecture
from granite_gguf.graph.encoder import derived_weights
from granite_gguf.nar.parity import NAR_PARITY
from granite_gguf.nar.stages import Stages
from granite_gguf.spec.nar import NAR
from granite_gguf.storage.dialects.own import Own
from granite_gguf.storage.dialects.transcribe_cpp import TranscribeCppNar

NAR_ARCHITECTURE = Architecture(
    format=NAR,
    dialects=(Own(NAR), TranscribeCppNar()),
    derived=lambda h, read: derived_weights(h.encoder, read),
    lane=Stages,
    parity=NAR_PARITY,
)
