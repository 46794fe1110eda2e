"""A dialect: how files of one publisher are to be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Generic

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray
from granite_gguf.fields import MetadataFields
from granite_gguf.ggml.types import F32, GGMLType, row_bytes
from granite_gguf.spec.format import Format, H
from granite_gguf.spec.tensors import TensorSpec
from granite_gguf.storage.container import Container, MetadataValue, ValueType
from granite_gguf.storage.keys import Keys


@dataclass(frozen=True)
class TokenizerFacts:
    """What a file says of its tokenizer.

    Attributes:
        huggingface: the checkpoint's own ``tokenizer.json``, or None.
        tokens: the vocabulary by id, or None.
        merges: pairs as ``"left right"``, or None.
        types: llama.cpp's type of each token, or None.
        split: how a text is split before it is merged, by llama.cpp's name of the way.
        vocabulary: how many tokens the model has.
    """

    huggingface: str | None
    tokens: list[str] | None
    merges: list[str] | None
    types: list[int] | None
    split: str
    vocabulary: int


@dataclass(frozen=True)
class Replacement:
    """How a tensor that lies otherwise in a file comes to be as ours hold it.

    Attributes:
        shape: in ggml order.
        type: of its numbers.
        read: makes its bytes, anew each time.
        made_of: the tensors of the file that it is made of.
    """

    shape: tuple[int, ...]
    type: GGMLType
    read: Callable[[], npt.NDArray[np.uint8]]
    made_of: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: FloatArray) -> Replacement:
        """Numbers that are computed already, in numpy order."""
        contents = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        return cls(values.shape[::-1], F32, lambda: contents)

    @property
    def byte_count(self) -> int:
        return row_bytes(self.type, self.shape[0]) * prod(self.shape[1:])


class Dialect(ABC, Generic[H]):
    """Reads one publisher's files of an architecture.

    Attributes:
        architecture: what they name as ``general.architecture``.
        prefix: what the keys begin with by which they are told from files that name the same.
        format: what they hold.
        beside: what the second of two files names, where a model lies in two; None where in one.
    """

    architecture: str
    prefix: str
    format: Format[H]
    beside: ClassVar[str | None] = None

    @abstractmethod
    def read_hparams(self, stored: Container) -> H:
        """The hyper-parameters, not yet checked against each other.

        Raises:
            ModelFileError: a key is missing, of a wrong type, or of a value that is not supported.
        """

    def stored_name(self, name: str) -> str:
        """What such files call a tensor of ours."""
        return name

    def stored_specs(self, _hparams: H, specs: Iterable[TensorSpec]) -> Iterator[TensorSpec]:
        """The tensors that such a file holds, by its own names and with its own shapes."""
        for spec in specs:
            yield replace(spec, name=self.stored_name(spec.name))

    def replaced(
        self, _stored: Container, _hparams: H, _specs: Mapping[str, TensorSpec]
    ) -> dict[str, Replacement]:
        """What becomes of tensors that lie otherwise in the file than in ours, by our names.

        Raises:
            ModelFileError: the file holds what the model does not support.
        """
        return {}

    @abstractmethod
    def metadata(self, stored: Container, hparams: H) -> dict[str, MetadataValue]:
        """What a file of ours says in place of this one's metadata."""

    def is_complete(self, _stored: Container) -> bool:
        """Whether a file says all that ours do, so that there is nothing to convert."""
        return False

    def tokenizer(self, stored: Container, hparams: H) -> TokenizerFacts:
        """What the file says of its tokenizer."""
        types = stored.metadata.get(Keys.Tokenizer.TOKEN_TYPE)
        integral = types is not None and types.element_type in (ValueType.INT32, ValueType.UINT32)
        return TokenizerFacts(
            huggingface=stored.text(Keys.Tokenizer.HUGGINGFACE),
            tokens=stored.strings(Keys.Tokenizer.TOKENS),
            merges=stored.strings(Keys.Tokenizer.MERGES),
            types=list(types.value) if types is not None and integral else None,
            split=self.text_split(stored, hparams),
            vocabulary=hparams.language.vocab_size,
        )

    def text_split(self, stored: Container, hparams: H) -> str:
        """How a text is split, as the file says it, or else as models of its family do."""
        return stored.text(Keys.Tokenizer.PRE) or hparams.text_split

    def fields(self, stored: Container) -> MetadataFields:
        """The metadata by key."""
        values = {key: found.value for key, found in stored.metadata.items()}
        return MetadataFields(stored.path, values, owner=self.architecture)
