"""Our own files, and those that others publish with the same keys.

Files written elsewhere carry fewer keys. A size that a file does not state is taken from its
tensors where they tell it; another absent key means the behaviour of the model's first release,
which those files hold.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints

import numpy as np

from granite_gguf.fields import MetadataFields
from granite_gguf.spec.format import Format, H
from granite_gguf.spec.parameters import Shapes, parameters
from granite_gguf.storage.container import Container, MetadataValue
from granite_gguf.storage.dialects.dialect import Dialect
from granite_gguf.storage.keys import Keys

_LAYERS = "layer numbers like '4,8,12,-1'"


def hparams_metadata(form: Format[H], hparams: H) -> dict[str, MetadataValue]:
    """Every hyper-parameter as metadata of our files, and the keys with one value only."""
    metadata: dict[str, MetadataValue] = {}
    for stage in (getattr(hparams, field.name) for field in fields(hparams)):
        for p in parameters(type(stage)):
            value = getattr(stage, p.name)
            if p.type is tuple:
                if not value:
                    continue  # the key stands for layers, not for none
                value = ",".join(map(str, value))
            metadata[form.key(p.key)] = MetadataValue.of(value)
    for key, fixed in form.fixed.items():
        metadata[form.key(key)] = MetadataValue.of(fixed)
    return metadata


class _Fields(MetadataFields):
    """Metadata whose types are called as the format's description calls them."""

    kinds: ClassVar = {int: "UINT32", float: "a finite FLOAT32", bool: "BOOL", str: "STRING"}


@dataclass(frozen=True)
class Own(Dialect[H]):
    """Reads files of our own keys and names."""

    format: Format[H]

    @property
    def architecture(self) -> str:  # type: ignore[override]
        return self.format.name

    @property
    def prefix(self) -> str:  # type: ignore[override]
        return f"{self.format.name}."

    def read_hparams(self, stored: Container) -> H:
        fields = _Fields(stored.path, self.fields(stored).values, owner=self.format.name)
        for key, value in self.format.fixed.items():
            fields.require(self.format.key(key), value)
        stages = {
            name: self._stage(stage, fields, stored.shape)
            for name, stage in get_type_hints(self.format.hparams).items()
        }
        return self.format.hparams(**stages)

    def _stage(self, stage: type, fields: MetadataFields, shapes: Shapes) -> Any:
        values: dict[str, Any] = {}
        for p in parameters(stage):
            key = self.format.key(p.key)
            if p.later and key not in fields:
                told = p.told(shapes, values) if p.told else None
                values[p.name] = p.absent if told is None else told
                if values[p.name] is None:
                    raise fields.missing(key, p.type)
                if p.type is float:  # as a file would hold it
                    values[p.name] = float(np.float32(values[p.name]))
            elif p.type is tuple:
                values[p.name] = _layers(fields, key)
            else:
                values[p.name] = fields.get(p.type, key)
        return stage(**values)

    def metadata(self, stored: Container, hparams: H) -> dict[str, MetadataValue]:
        """The file's own, with what files written elsewhere leave out."""
        form, language = self.format, hparams.language
        ours: dict[str, int | str] = {
            form.key(Keys.Source.LAYOUT): hparams.layout,
            form.key(Keys.CTC.VOCAB_SIZE): hparams.encoder.ctc_vocab,
            Keys.Tokenizer.MODEL: "gpt2",
            Keys.Tokenizer.PRE: self.text_split(stored, hparams),
            Keys.Tokenizer.BOS: language.bos_token_id,
            Keys.Tokenizer.EOS: language.eos_token_id,
            Keys.Tokenizer.PAD: language.pad_token_id,
        }
        metadata = {**stored.metadata, **hparams_metadata(form, hparams)}
        for key, value in ours.items():
            metadata.setdefault(key, MetadataValue.of(value))
        return metadata

    def is_complete(self, stored: Container) -> bool:
        return self.format.key(Keys.Source.LAYOUT) in stored.metadata


def _layers(fields: MetadataFields, key: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in fields.get(str, key).split(","))
    except ValueError:
        raise fields.wrong(key, _LAYERS) from None
