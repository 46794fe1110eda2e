"""The record of the non-autoregressive architecture."""

from granite_gguf.architecture import Architecture
from granite_gguf.nar.cuda_weights import reason_against
from granite_gguf.nar.derived import derive
from granite_gguf.nar.lane import NarLane
from granite_gguf.nar.parity import NAR_PARITY
from granite_gguf.nar.spec import NAR
from granite_gguf.nar.transcribe_cpp import TranscribeCppNar
from granite_gguf.storage.dialects.own import Own

NAR_ARCHITECTURE = Architecture(
    room="nar",
    format=NAR,
    dialects=(Own(NAR), TranscribeCppNar()),
    derived=derive,
    lane=NarLane,
    parity=NAR_PARITY,
    without_gpu=reason_against,
)
