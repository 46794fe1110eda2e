"""The passes of the non-autoregressive model on one runtime."""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.cuda.gpu import Gpu
from granite_gguf.errors import InputError
from granite_gguf.ggml import Runtime
from granite_gguf.nar.cuda import CudaStages
from granite_gguf.nar.cuda_weights import CudaWeights, open_device
from granite_gguf.nar.hotwords import REPLACING
from granite_gguf.nar.padded import PaddedStages
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import Stages
from granite_gguf.nar.transcribe import longest_pass, one_pass
from granite_gguf.passes import (
    APART_AT_A_TIME,
    ASKED_IN_WORDS,
    CONTINUING,
    PUNCTUATING,
    TELLING_SPEAKERS,
    TRANSLATING,
    Cache,
    Options,
    PassLimits,
    Piece,
    Together,
)
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.stages.characters import labels_of
from granite_gguf.stages.lane import StagesLane
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Segment
from granite_gguf.words.terms import hotwords

_MOST_PIECES = 128
_MOST_SECONDS = 1536.0
_LEAST_SECONDS = 30.0
_BYTES_PER_SECOND = 8 << 20  # of activations of the released model, about
_HEAD_BYTES = 3 << 30  # of the logits that are computed at once


class NarLane(StagesLane[Stages]):
    """Passes of the NAR model; with the precision ``fast`` the editor is left out where the
    hypothesis is sure, unless something else is asked for. Arguments are those of
    :class:`granite_gguf.architecture.MakeLane`.

    The editor's positions hold minutes of audio, if little is said in it. What the model was
    trained on is shorter, and in a longer pass the editor spoils what the encoder understood.
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
        if cache is not Cache.F16:
            raise InputError(
                f"cache is {str(cache)!r}, and this model (NAR) keeps none; {ASKED_IN_WORDS} do"
            )
        h = file.hparams
        stages: Stages
        together = Together()
        if gpu is not None:
            device = open_device(h, gpu)
            placed = gpu.once(lambda: CudaWeights(file, device, runtime.threads))
            stages = CudaStages(file, tokenizer, weights, runtime, device, placed)
            together = _together(device.free)
        elif runtime.apart:
            stages = PaddedStages(file, tokenizer, weights, runtime)
            room = runtime.device_room(runtime.device_handle)
            together = _together(0 if room is None else room.free)
        else:
            stages = Stages(file, tokenizer, weights, runtime)
        most, rate = longest_pass(h, stages.max_positions), h.front_end.sample_rate
        limits = PassLimits(
            sample_rate=rate,
            most=most,
            piece=min(most, int(rate * h.front_end.max_pass_seconds)),
            room=f"the model's {stages.max_positions} positions",
            together=together,
        )
        super().__init__(stages, limits, precision)

    def check_wishes(self, options: Options) -> None:
        """Refuse all that a model has to be asked for in words, and names that it cannot hear."""
        wish = options.wish
        for asked, what, others in (
            (wish.translate_to is not None, "translates nothing", TRANSLATING),
            (wish.speakers, "tells no speakers", TELLING_SPEAKERS),
            (wish.punctuation is not None, "is not asked for punctuation", PUNCTUATING),
            (wish.prompt is not None, "takes no prompt", ASKED_IN_WORDS),
            (options.max_tokens is not None, "writes no tokens one by one", ASKED_IN_WORDS),
            (options.context is not None, "continues no text", CONTINUING),
            (not options.draft, "always begins with a draft", ASKED_IN_WORDS),
        ):
            if asked:
                raise InputError(f"this model (NAR) {what}; {others} can do otherwise")
        if wish.keywords:
            hotwords(labels_of(self.stages.file), wish.hotwords, REPLACING)

    def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
        """As :func:`granite_gguf.nar.transcribe.one_pass` does it."""
        return one_pass(self.stages, pieces, options, fast=self.fast)


def _together(free: int) -> Together:
    """How many pieces a device of its own takes at a time, with so many bytes left."""
    seconds = (free / APART_AT_A_TIME - _HEAD_BYTES) / _BYTES_PER_SECOND
    return Together(_MOST_PIECES, min(_MOST_SECONDS, max(_LEAST_SECONDS, seconds)), padded=True)
