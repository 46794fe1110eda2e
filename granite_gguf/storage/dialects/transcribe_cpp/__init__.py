"""Files of transcribe.cpp's dialects, whose own keys begin with ``stt.``."""

from granite_gguf.storage.dialects.transcribe_cpp.nar import TranscribeCppNar
from granite_gguf.storage.dialects.transcribe_cpp.speech import TranscribeCppSpeech

__all__ = ["TranscribeCppNar", "TranscribeCppSpeech"]
