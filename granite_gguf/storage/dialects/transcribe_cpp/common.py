"""What transcribe.cpp's dialects have in common: the front end, its tensors, the way to read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import ModelFileError
from granite_gguf.fields import MetadataFields
from granite_gguf.sound.features import hann_window
from granite_gguf.spec.format import H
from granite_gguf.spec.hparams import FrontEnd
from granite_gguf.spec.names import NameTable
from granite_gguf.spec.parameters import Shapes
from granite_gguf.spec.tensors import MEL_FILTERS, Role, Stage, TensorSpec
from granite_gguf.storage.container import Container, MetadataValue, to_float32
from granite_gguf.storage.dialects.dialect import Dialect, Replacement
from granite_gguf.storage.dialects.own import hparams_metadata
from granite_gguf.storage.dialects.transcribe_cpp.names import MEL_FILTERBANK, WINDOW
from granite_gguf.storage.keys import Keys

OWN_PREFIX = "stt."
FRONT_END = "stt.frontend."
FORM = "stt"  # whose names of hyper-parameters these are
VARIANT = "stt.variant"

Only = tuple[tuple[str, str | bool | int | float, bool], ...]
"""Values of which the model has one only: key, value, and whether the key may be absent."""

_FRONT_END_ONLY: Only = (
    (FRONT_END + "type", "mel", False),
    (FRONT_END + "window", "hann_periodic", False),
    (FRONT_END + "normalize", "per_utterance", False),
    (FRONT_END + "pad_mode", "reflect", True),
    (FRONT_END + "mel_norm", "htk", True),
    (FRONT_END + "center", True, True),
    (FRONT_END + "dither", 0.0, True),
    (FRONT_END + "pre_emphasis", 0.0, True),
    (Keys.Tokenizer.MODEL, "gpt2", False),
)

# Of the window: above what half precision rounds away, below the 4e-3 by which a symmetric window
# differs from the periodic one.
_TOLERANCE = 1e-3


class TranscribeCpp(Dialect[H]):
    """Whatever is wrong is told in the file's own names.

    Tensors stay where the file is mapped; only the mel filterbank, which lies the other way round,
    is copied.

    Attributes:
        names: of the tensors.
        splits: the ways to split a text that such files may name, by llama.cpp's names of them.
        only: values of which the model has one only, besides the front end's.
    """

    names: ClassVar[NameTable]
    splits: ClassVar[Mapping[str, str]]
    only: ClassVar[Only]

    @abstractmethod
    def read_fields(self, fields: MetadataFields, shapes: Shapes) -> H:
        """The hyper-parameters, from the metadata and the tensors by their names there."""

    def read_hparams(self, stored: Container) -> H:
        fields = self.fields(stored)
        for key, expected, optional in (*_FRONT_END_ONLY, *self.only):
            fields.require(key, expected, optional=optional)
        if fields.get(str, Keys.Tokenizer.PRE) not in self.splits:
            raise fields.wrong(Keys.Tokenizer.PRE, " or ".join(map(repr, self.splits)))
        return self.read_fields(fields, stored.shape)

    def text_split(self, stored: Container, hparams: H) -> str:
        return self.splits[stored.metadata[Keys.Tokenizer.PRE].value]

    def stored_name(self, name: str) -> str:
        return self.names(name)

    def stored_specs(self, hparams: H, specs: Iterable[TensorSpec]) -> Iterator[TensorSpec]:
        for spec in super().stored_specs(hparams, specs):
            turned = spec.name == MEL_FILTERBANK
            yield replace(spec, shape=spec.shape[::-1]) if turned else spec
        window = (hparams.front_end.win_length,)
        yield TensorSpec(WINDOW, window, Stage.AUDIO, Role.VECTOR)

    def replaced(
        self, stored: Container, hparams: H, specs: Mapping[str, TensorSpec]
    ) -> dict[str, Replacement]:
        _check_window(stored, hparams.front_end)
        # (n_fft // 2 + 1, n_mels), which is stored (n_mels, n_fft // 2 + 1)
        filters = values(stored, MEL_FILTERBANK).reshape(specs[MEL_FILTERS].shape).T
        return {MEL_FILTERS: Replacement.of(filters)}

    def metadata(self, stored: Container, hparams: H) -> dict[str, MetadataValue]:
        """Ours in place of the dialect's own keys; ``general.*`` and the tokenizer's stay."""
        form = self.format
        characters = self.characters(stored, hparams)
        variant = stored.text(VARIANT)
        ours: dict[str, int | str] = {
            Keys.CTC.VOCAB_SIZE: hparams.encoder.ctc_vocab,
            **({} if characters is None else {Keys.CTC.VOCAB: characters}),
            Keys.Tokenizer.PRE: self.text_split(stored, hparams),
            **({} if variant is None else {Keys.Source.VARIANT: variant}),
        }
        return {
            **{k: v for k, v in stored.metadata.items() if not k.startswith(OWN_PREFIX)},
            Keys.General.ARCHITECTURE: MetadataValue.of(form.name),
            form.key(Keys.Source.LAYOUT): MetadataValue.of(hparams.layout),
            form.key(Keys.Source.ARCHITECTURE): MetadataValue.of(self.architecture),
            **hparams_metadata(form, hparams),
            **{form.key(key): MetadataValue.of(value) for key, value in ours.items()},
        }

    def characters(self, _stored: Container, _hparams: H) -> str | None:
        """The character head's outputs, one a line, where such files list them."""
        return None


def values(stored: Container, name: str) -> FloatArray:
    """A tensor by its name in the file, decoded, in numpy order."""
    info = stored.tensors[name]
    return to_float32(stored.raw(name), info.type, info.shape)


def _check_window(stored: Container, front_end: FrontEnd) -> None:
    """The front end computes its window itself; refuse a file that was made for another."""
    window = values(stored, WINDOW).reshape(-1)
    difference = float(np.abs(window - hann_window(front_end.win_length)).max())
    if not difference <= _TOLERANCE:
        raise ModelFileError(
            f"{stored.path}: {WINDOW} differs by up to {difference:.3g} from the periodic Hann "
            f"window of {front_end.win_length} samples, expected that window: no other is supported"
        )
