"""Files of the other published dialect, ``granite_speech_nar``, read as ``granite_nle``.

    stored container → keys → hyper-parameters → expected tensors ┐
                       tensors, named as they are stored ─────────┴→ the same bytes, our names

Whatever is wrong is told in the file's own names. Tensors stay where the file is mapped; only the
mel filterbank, which lies the other way round, is copied.
"""

from granite_gguf.storage.dialects.transcribe_cpp.keys import ARCHITECTURE
from granite_gguf.storage.dialects.transcribe_cpp.nar import translate

__all__ = ["ARCHITECTURE", "translate"]
