"""The passes of the autoregressive model on one runtime."""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.ggml import F16, F32, Runtime
from granite_gguf.passes import Cache, Options, PassLimits, Piece, check_language
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.speech.spec import HParams
from granite_gguf.speech.stages import SpeechStages
from granite_gguf.speech.transcribe import Manner, one_pass
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Segment

# Seconds that can be asked for. The base models were trained with short recordings, and their
# publisher's own program never goes beyond 120; the card of the plus model names 9 minutes.
_MOST_SECONDS = {"base": 120.0, "3.x": 120.0, "plus": 540.0}
_CACHES = {Cache.F16: F16, Cache.F32: F32}


class SpeechLane:
    """Passes of all stages. Arguments are those of :class:`SpeechStages`, and:

    Args:
        precision: with ``fast``, a draft that is sure is not looked at.
        cache: what keys and values are kept as.
    """

    def __init__(
        self,
        file: ModelFile[HParams],
        tokenizer: SpeechTokenizer,
        weights: ModelWeights,
        runtime: Runtime,
        *,
        precision: Precision = Precision.EXACT,
        cache: Cache = Cache.F16,
    ) -> None:
        self.stages = SpeechStages(file, tokenizer, weights, runtime, _CACHES[cache])
        self._fast = precision is Precision.FAST
        front_end = file.hparams.front_end
        rate, usual = front_end.sample_rate, front_end.max_pass_seconds
        most = int(rate * max(usual, _MOST_SECONDS[file.hparams.family]))
        self.limits = PassLimits(
            sample_rate=rate,
            most=most,
            piece=int(rate * usual),
            room=f"the {most // rate} s that the model can be given",
        )

    def check(self, options: Options) -> None:
        """Refuse what the model cannot do, and name what can.

        Raises:
            InputError: it is asked for.
        """
        file = self.stages.file
        check_language(options.language, file.hparams.heard)
        Manner.of(file.hparams, self.stages.known_characters, options)

    def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
        """As :func:`granite_gguf.speech.transcribe.one_pass` does it."""
        return one_pass(self.stages, pieces, options, fast=self._fast)

    def close(self) -> None:
        """Wait for what is being computed, and compute nothing more."""
        self.stages.close()
