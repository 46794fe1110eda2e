"""The record of the non-autoregressive architecture."""

from granite_gguf.architecture import Architecture
from granite_gguf.nar.stages import Stages
from granite_gguf.spec.nar import NAR
from granite_gguf.storage.dialects.own import Own
from granite_gguf.storage.dialects.transcribe_cpp import TranscribeCppNar

NAR_ARCHITECTURE = Architecture(
    format=NAR,
    dialects=(Own(NAR), TranscribeCppNar()),
    lane=Stages,
)
