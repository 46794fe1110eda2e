"""The passes of the autoregressive model on one runtime."""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.cuda.gpu import Gpu
from granite_gguf.ggml import F16, F32, Runtime
from granite_gguf.passes import Cache, Options, PassLimits, Piece
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.speech.spec import HParams
from granite_gguf.speech.stages import SpeechStages
from granite_gguf.speech.transcribe import Manner, one_pass
from granite_gguf.stages.lane import StagesLane
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Segment

# Seconds that can be asked for. The base models were trained with short recordings, and their
# publisher's own program never goes beyond 120; the card of the plus model names 9 minutes.
_MOST_SECONDS = {"base": 120.0, "3.x": 120.0, "plus": 540.0}
_CACHES = {Cache.F16: F16, Cache.F32: F32}


class SpeechLane(StagesLane[SpeechStages]):
    """Passes of the autoregressive model; with the precision ``fast`` a draft that is sure is not
    looked at. Arguments are those of :class:`granite_gguf.architecture.MakeLane`.
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
        gpu: Gpu | None = None,
    ) -> None:
        if gpu is not None:
            raise ValueError("there are no kernels of ours for this architecture on a GPU")
        front_end = file.hparams.front_end
        rate, usual = front_end.sample_rate, front_end.max_pass_seconds
        most = int(rate * max(usual, _MOST_SECONDS[file.hparams.family]))
        limits = PassLimits(
            sample_rate=rate,
            most=most,
            piece=int(rate * usual),
            room=f"the {most // rate} s that the model can be given",
        )
        stages = SpeechStages(file, tokenizer, weights, runtime, _CACHES[cache])
        super().__init__(stages, limits, precision)

    def check_wishes(self, options: Options) -> None:
        """As :meth:`Manner.of` knows them."""
        Manner.of(self.stages.hparams, self.stages.known_characters, options)

    def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
        """As :func:`granite_gguf.speech.transcribe.one_pass` does it."""
        return one_pass(self.stages, pieces, options, fast=self.fast)
