"""The model in plain PyTorch: the yardstick that everything else here is measured against.

    from granite_gguf.reference import Reference
    stages = Reference.from_checkpoint("granite-speech-4.1-2b-nar").run(audio)

Nothing here uses the converter, the GGUF reader or the numpy front end, on purpose: a mistake in
one of those cannot hide behind the same mistake here. The modules are ordinary trainable
`nn.Module`s; only `Reference` switches gradients off.
"""

try:
    import jinja2 as _jinja2  # noqa: F401
    import safetensors as _safetensors  # noqa: F401
    import tokenizers as _tokenizers  # noqa: F401
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f"{error.name} is not installed, and the PyTorch reference needs it: "
        "pip install 'granite-gguf[reference]'"
    ) from error

from granite_gguf.reference.checkpoint import load_model, load_tokenizer, to_checkpoint
from granite_gguf.reference.config import (
    CheckpointError,
    EditorConfig,
    EncoderConfig,
    FrontEndConfig,
    Layout,
    ModelConfig,
    ProjectorConfig,
    Semantics,
)
from granite_gguf.reference.editor import Editor
from granite_gguf.reference.encoder import Encoded, Encoder
from granite_gguf.reference.frontend import log_mel, mel_bank
from granite_gguf.reference.layouts import read_config
from granite_gguf.reference.model import GraniteSpeechNar
from granite_gguf.reference.pipeline import Reference, Stages
from granite_gguf.reference.projector import Projector

__all__ = [
    "CheckpointError",
    "Editor",
    "EditorConfig",
    "Encoded",
    "Encoder",
    "EncoderConfig",
    "FrontEndConfig",
    "GraniteSpeechNar",
    "Layout",
    "ModelConfig",
    "Projector",
    "ProjectorConfig",
    "Reference",
    "Semantics",
    "Stages",
    "load_model",
    "load_tokenizer",
    "log_mel",
    "mel_bank",
    "read_config",
    "to_checkpoint",
]
