"""A stored ``granite_speech_nar`` container as one of ``granite_nle``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import ModelFileError
from granite_gguf.ggml.types import F32
from granite_gguf.sound.features import hann_window
from granite_gguf.spec.checks import contradiction
from granite_gguf.spec.hparams import FrontEnd, HParams
from granite_gguf.spec.tensors import Role, Stage, TensorSpec, expected_tensors
from granite_gguf.storage.container import Container, MetadataValue, ValueType, to_float32
from granite_gguf.storage.dialects.transcribe_cpp.keys import (
    ARCHITECTURE,
    CTC_CHARACTERS,
    OWN_PREFIX,
    VARIANT,
    read_hparams,
)
from granite_gguf.storage.dialects.transcribe_cpp.names import MEL_FILTERBANK, WINDOW, stored_name
from granite_gguf.storage.keys import ARCHITECTURE as OURS
from granite_gguf.storage.keys import Keys, hparams_metadata
from granite_gguf.storage.tensor_check import check_tensors

_FILTERS = "audio.mel_filters"

# Of the window: above what half precision rounds away, below the 4e-3 by which a symmetric window
# differs from the periodic one.
_TOLERANCE = 1e-3


def translate(stored: Container) -> Container:
    """The same file with the metadata keys and tensor names of ``granite_nle``.

    Raises:
        ModelFileError: a key or tensor is missing, left over, or not what the model needs.
    """
    hparams = read_hparams(stored)
    problem = contradiction(hparams)
    if problem:
        raise ModelFileError(f"{stored.path}: {problem}")
    specs = expected_tensors(hparams)
    check_tensors(stored.path, stored.tensors, _stored_specs(hparams.front_end, specs))
    _check_window(stored, hparams.front_end)
    tensors = {name: stored.tensors[stored_name(name)] for name in specs}
    shape = specs[_FILTERS].shape
    filters = _filters(stored, shape)
    tensors[_FILTERS] = replace(tensors[_FILTERS], shape=shape, type=F32, byte_count=filters.nbytes)
    return replace(
        stored,
        metadata=_metadata(stored.metadata, hparams),
        tensors=tensors,
        replaced={_FILTERS: filters.reshape(-1).view(np.uint8)},
    )


def _stored_specs(front_end: FrontEnd, specs: Mapping[str, TensorSpec]) -> Iterator[TensorSpec]:
    """The tensors that such a file holds, by its own names."""
    for spec in specs.values():
        turned = spec.name == _FILTERS
        shape = tuple(reversed(spec.shape)) if turned else spec.shape
        yield replace(spec, name=stored_name(spec.name), shape=shape)
    yield TensorSpec(WINDOW, (front_end.win_length,), Stage.AUDIO, Role.VECTOR)


def _values(stored: Container, name: str) -> npt.NDArray[np.float32]:
    info = stored.tensors[name]
    return to_float32(stored.raw(name), info.type, info.shape)


def _filters(stored: Container, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The filterbank ``(n_fft // 2 + 1, n_mels)``, which is stored ``(n_mels, n_fft // 2 + 1)``."""
    return np.ascontiguousarray(_values(stored, MEL_FILTERBANK).reshape(shape).T)


def _check_window(stored: Container, front_end: FrontEnd) -> None:
    """The front end computes its window itself; refuse a file that was made for another."""
    window = _values(stored, WINDOW).reshape(-1)
    difference = float(np.abs(window - hann_window(front_end.win_length)).max())
    if not difference <= _TOLERANCE:
        raise ModelFileError(
            f"{stored.path}: {WINDOW} differs by up to {difference:.3g} from the periodic Hann "
            f"window of {front_end.win_length} samples, expected that window: no other is supported"
        )


def _metadata(stored: dict[str, MetadataValue], hparams: HParams) -> dict[str, MetadataValue]:
    """Ours in place of the dialect's own keys; ``general.*`` and the tokenizer's stay."""
    layout = "nle" if hparams.hypothesis.retokenize else "granite_speech_nar"
    metadata = {
        **{key: value for key, value in stored.items() if not key.startswith(OWN_PREFIX)},
        Keys.General.ARCHITECTURE: _string(OURS),
        Keys.Source.LAYOUT: _string(layout),
        Keys.Source.ARCHITECTURE: _string(ARCHITECTURE),
        **hparams_metadata(hparams),
        **_character_metadata(stored, hparams.encoder.ctc_vocab),
        Keys.Tokenizer.PRE: _string("dbrx"),
    }
    variant = stored.get(VARIANT)
    if variant is not None and variant.type is ValueType.STRING:
        metadata[Keys.Source.VARIANT] = variant
    return metadata


def _character_metadata(
    stored: dict[str, MetadataValue], vocabulary: int
) -> dict[str, MetadataValue]:
    """The character head's outputs, one a line. The tool that writes them may list too many."""
    metadata = {Keys.CTC.VOCAB_SIZE: MetadataValue(ValueType.UINT32, vocabulary)}
    found = stored.get(CTC_CHARACTERS)
    if found is not None and found.element_type is ValueType.STRING:
        characters = ["" if "\n" in text else text for text in found.value[:vocabulary]]
        if len(characters) == vocabulary:
            metadata[Keys.CTC.VOCAB] = _string("\n".join(characters))
    return metadata


def _string(value: str) -> MetadataValue:
    return MetadataValue(ValueType.STRING, value)
