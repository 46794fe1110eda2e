"""Reads ``granite_speech_nar`` files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import ModelFileError
from granite_gguf.sound.features import hann_window
from granite_gguf.spec.hparams import FrontEnd
from granite_gguf.spec.nar import NAR, HParams
from granite_gguf.spec.tensors import MEL_FILTERS, Role, Stage, TensorSpec
from granite_gguf.storage.container import Container, MetadataValue, to_float32
from granite_gguf.storage.dialects.dialect import Dialect
from granite_gguf.storage.dialects.own import hparams_metadata
from granite_gguf.storage.dialects.transcribe_cpp.keys import (
    ARCHITECTURE,
    CTC_CHARACTERS,
    OWN_PREFIX,
    VARIANT,
    read_hparams,
)
from granite_gguf.storage.dialects.transcribe_cpp.names import MEL_FILTERBANK, WINDOW, stored_name
from granite_gguf.storage.keys import Keys

# Of the window: above what half precision rounds away, below the 4e-3 by which a symmetric window
# differs from the periodic one.
_TOLERANCE = 1e-3


class TranscribeCppNar(Dialect[HParams]):
    """Whatever is wrong is told in the file's own names.

    Tensors stay where the file is mapped; only the mel filterbank, which lies the other way round,
    is copied.
    """

    architecture = ARCHITECTURE
    prefix = "stt.granite_nar."
    format = NAR

    def read_hparams(self, stored: Container) -> HParams:
        return read_hparams(self.fields(stored), stored.shape)

    def stored_name(self, name: str) -> str:
        return stored_name(name)

    def stored_specs(self, hparams: HParams, specs: Iterable[TensorSpec]) -> Iterator[TensorSpec]:
        for spec in super().stored_specs(hparams, specs):
            turned = spec.name == MEL_FILTERBANK
            yield replace(spec, shape=spec.shape[::-1]) if turned else spec
        window = (hparams.front_end.win_length,)
        yield TensorSpec(WINDOW, window, Stage.AUDIO, Role.VECTOR)

    def replaced(
        self, stored: Container, hparams: HParams, specs: Mapping[str, TensorSpec]
    ) -> dict[str, npt.NDArray[np.float32]]:
        _check_window(stored, hparams.front_end)
        # (n_fft // 2 + 1, n_mels), which is stored (n_mels, n_fft // 2 + 1)
        filters = _values(stored, MEL_FILTERBANK).reshape(specs[MEL_FILTERS].shape).T
        return {MEL_FILTERS: np.ascontiguousarray(filters)}

    def metadata(self, stored: Container, hparams: HParams) -> dict[str, MetadataValue]:
        """Ours in place of the dialect's own keys; ``general.*`` and the tokenizer's stay."""
        layout = "nle" if hparams.hypothesis.retokenize else "granite_speech_nar"
        characters = _characters(stored, hparams.encoder.ctc_vocab)
        variant = stored.text(VARIANT)
        ours: dict[str, int | str] = {
            Keys.CTC.VOCAB_SIZE: hparams.encoder.ctc_vocab,
            **({} if characters is None else {Keys.CTC.VOCAB: characters}),
            Keys.Tokenizer.PRE: "dbrx",
            **({} if variant is None else {Keys.Source.VARIANT: variant}),
        }
        return {
            **{k: v for k, v in stored.metadata.items() if not k.startswith(OWN_PREFIX)},
            Keys.General.ARCHITECTURE: MetadataValue.of(NAR.name),
            NAR.key(Keys.Source.LAYOUT): MetadataValue.of(layout),
            NAR.key(Keys.Source.ARCHITECTURE): MetadataValue.of(ARCHITECTURE),
            **hparams_metadata(NAR, hparams),
            **{NAR.key(key): MetadataValue.of(value) for key, value in ours.items()},
        }


def _values(stored: Container, name: str) -> npt.NDArray[np.float32]:
    info = stored.tensors[name]
    return to_float32(stored.raw(name), info.type, info.shape)


def _check_window(stored: Container, front_end: FrontEnd) -> None:
    """The front end computes its window itself; refuse a file that was made for another."""
    window = _values(stored, WINDOW).reshape(-1)
    difference = float(np.abs(window - hann_window(front_end.win_length)).max())
    if not difference <= _TOLERANCE:
        raise ModelFileError(
            f"{stored.path}: {WINDOW} differs by up to {difference:.3g} from the periodic Hann "
            f"window of {front_end.win_length} samples, expected that window: no other is supported"
        )


def _characters(stored: Container, vocabulary: int) -> str | None:
    """The character head's outputs, one a line. The tool that writes them may list too many."""
    found = stored.strings(CTC_CHARACTERS)
    if found is None or len(found) < vocabulary:
        return None
    return "\n".join("" if "\n" in text else text for text in found[:vocabulary])
