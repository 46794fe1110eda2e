"""The three trainable stages as one module.

features -> encoder -> captured states -> projector -> audio tokens -> editor -> logits
                    -> BPE logits -> hypothesis (see `decoding`) -> text ids -^
"""

from __future__ import annotations

from torch import Tensor, nn

from granite_gguf.reference.config import ModelConfig
from granite_gguf.reference.editor import Editor
from granite_gguf.reference.encoder import Encoder
from granite_gguf.reference.projector import Projector


class GraniteSpeechNar(nn.Module):
    """Holder of the parameters; the stages are called one by one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.projector = Projector(config.projector)
        self.editor = Editor(config.editor)

    def audio_tokens(self, projected: Tensor, n_frames: int) -> Tensor:
        """The projector's (B, 3 * ceil(T / 15), D) as the editor takes them: (B, T // 5, D).

        Tokens that padding alone completed are cut off, and the rest is divided by the embedding
        multiplier, which the editor applies to all its rows.
        """
        tokens = projected[:, : n_frames // self.config.projector.downsample]
        if self.config.semantics.scale_projected_embeddings:
            tokens = tokens / self.config.editor.embedding_multiplier
        return tokens
