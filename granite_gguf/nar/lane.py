"""The passes of the non-autoregressive model on one runtime."""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.ggml import Runtime
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import Stages
from granite_gguf.nar.transcribe import longest_pass, one_pass
from granite_gguf.passes import Options, PassLimits, Piece
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Segment

_PIECE_SECONDS = 60.0


class NarLane:
    """Passes of all stages. Arguments are those of :class:`Stages`.

    A recording that fits in the editor's positions is one pass, as upstream does it. A longer one
    is cut: the editor's attention grows with the square of a piece, the first text comes after the
    first piece, and whatever is said in one of a minute fits.
    """

    def __init__(
        self,
        file: ModelFile[HParams],
        tokenizer: SpeechTokenizer,
        weights: ModelWeights,
        runtime: Runtime,
    ) -> None:
        self.stages = Stages(file, tokenizer, weights, runtime)
        h = file.hparams
        most, rate = longest_pass(h), h.front_end.sample_rate
        self.limits = PassLimits(
            sample_rate=rate,
            most=most,
            whole=most,
            piece=min(most, int(rate * _PIECE_SECONDS)),
            room=f"the model's {h.editor.max_positions} positions",
        )

    def check(self, options: Options) -> None:
        """All that there is to ask for can be done."""

    def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
        """As :func:`granite_gguf.nar.transcribe.one_pass` does it."""
        return one_pass(self.stages, pieces, options)

    def close(self) -> None:
        """Wait for what is being computed, and compute nothing more."""
        self.stages.close()
