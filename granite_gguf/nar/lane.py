"""The passes of the non-autoregressive model on one runtime."""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.errors import InputError
from granite_gguf.ggml import Runtime
from granite_gguf.nar.hotwords import hotwords
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import Stages
from granite_gguf.nar.transcribe import longest_pass, one_pass
from granite_gguf.passes import (
    ASKED_IN_WORDS,
    CONTINUING,
    PUNCTUATING,
    TELLING_SPEAKERS,
    TRANSLATING,
    Cache,
    Options,
    PassLimits,
    Piece,
)
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.stages.characters import labels_of
from granite_gguf.stages.lane import StagesLane
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Segment


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
    ) -> None:
        if cache is not Cache.F16:
            raise InputError(
                f"cache is {str(cache)!r}, and this model (NAR) keeps none; {ASKED_IN_WORDS} do"
            )
        h = file.hparams
        most, rate = longest_pass(h), h.front_end.sample_rate
        limits = PassLimits(
            sample_rate=rate,
            most=most,
            piece=min(most, int(rate * h.front_end.max_pass_seconds)),
            room=f"the model's {h.editor.max_positions} positions",
        )
        super().__init__(Stages(file, tokenizer, weights, runtime), limits, precision)

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
            hotwords(labels_of(self.stages.file), wish.hotwords)

    def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
        """As :func:`granite_gguf.nar.transcribe.one_pass` does it."""
        return one_pass(self.stages, pieces, options, fast=self.fast)
