"""Converts a checkpoint to a GGUF file of ours, a few rows at a time.

config.json → hyper-parameters → expected tensors ─┐
*.safetensors → stored tensors ────────────────────┴→ matched one to one → GGUF
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import TokenType
from tokenizers import Tokenizer

from granite_gguf.arrays import AnyArray, FloatArray
from granite_gguf.converters.checkpoint import CheckpointConfig, Layout
from granite_gguf.converters.configs import read_config
from granite_gguf.converters.dtypes import OutType, convert_values, output_type
from granite_gguf.converters.safetensors_source import StoredTensor, open_checkpoint, read_tensors
from granite_gguf.errors import CheckpointError, brief, library_errors
from granite_gguf.files import Progress, silent
from granite_gguf.ggml.types import F32
from granite_gguf.sound.features import mel_filters
from granite_gguf.spec.format import Format
from granite_gguf.spec.hparams import HParams
from granite_gguf.spec.tensors import MEL_FILTERS, TensorSpec
from granite_gguf.storage.container import MetadataValue
from granite_gguf.storage.dialects.own import hparams_metadata
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.writer import TensorSource, write_gguf

Metadata = dict[str, MetadataValue]

# Of BatchNorm: the one kind of tensor that inference does not need.
_DROPPED = re.compile(r"\.(batch_norm|conv\.net\.5)\.num_batches_tracked$")


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        path: the file.
        layout: the checkpoint's layout.
        hparams: the model's hyper-parameters.
        parameters: how many numbers the model has.
        byte_count: the file's size.
    """

    path: Path
    layout: Layout
    hparams: HParams
    parameters: int
    byte_count: int


def convert(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    outtype: OutType | str = OutType.F16,
    revision: str | None = None,
    name: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Conversion:
    """Convert a checkpoint directory of any layout.

    Args:
        source: the directory with config.json, *.safetensors and tokenizer.json.
        output: the file to write.
        outtype: ``f16`` (the language model's matrices F16, the rest F32), ``bf16`` (every matrix
            BF16, the rest F32) or ``f32``.
        revision: the checkpoint's revision, recorded in the file.
        name: the model's name, recorded in the file; by default the directory's.
        force: replace an existing file.
        progress: is told of every part written.

    Raises:
        CheckpointError: the checkpoint is incomplete, inconsistent or of another model.
        OutputError: the file exists and ``force`` is not set, or cannot be written.
    """
    directory, path = Path(source), Path(output)
    policy = OutType(outtype)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: is no directory, expected a checkpoint's")
    config = read_config(directory)
    form = config.format
    specs = form.tensors(config.hparams)
    stored = open_checkpoint(directory)
    for prefix, further in config.beside.items():
        stored |= {prefix + key: tensor for key, tensor in read_tensors(further).items()}
    tensors = _match(directory, config, specs, stored)
    sources = [_tensor_source(policy, config, spec, tensors) for spec in specs.values()]
    parameters = sum(prod(spec.shape) for spec in specs.values())
    metadata = {
        **_general_metadata(form, directory, name, parameters, policy),
        **_source_metadata(config, revision),
        **hparams_metadata(form, config.hparams),
        **_character_metadata(config),
        **_tokenizer_metadata(directory, config.hparams),
        **config.metadata,
    }
    size = write_gguf(path, metadata, sources, force=force, progress=progress)
    return Conversion(path, config.layout, config.hparams, parameters, size)


# Tensors


def _match(
    directory: Path,
    config: CheckpointConfig,
    specs: dict[str, TensorSpec],
    stored: dict[str, StoredTensor],
) -> dict[str, StoredTensor]:
    """The stored tensor of each spec that has one; nothing may be left over on either side."""
    left = {key: tensor for key, tensor in stored.items() if not _DROPPED.search(key)}
    matched: dict[str, StoredTensor] = {}
    problems: list[str] = []
    for spec in specs.values():
        key = config.key(spec)
        if key is None:
            continue
        tensor = left.pop(key, None)
        if tensor is None:
            problems.append(f"{key} is missing")
        elif not spec.accepts(tuple(reversed(tensor.shape))):
            expected = list(reversed(spec.shape))
            problems.append(
                f"{key} is {brief(list(tensor.shape))}, the configuration says {expected}"
            )
        else:
            matched[spec.name] = tensor
    problems += [f"{key[:200]} is unknown" for key in left]
    if problems:
        shown = "; ".join(problems[:5]) + (
            f"; and {len(problems) - 5} more" if problems[5:] else ""
        )
        raise CheckpointError(
            f"{directory}: as a checkpoint of layout {config.layout.value}: {shown}"
        )
    return matched


def _tensor_source(
    policy: OutType, config: CheckpointConfig, spec: TensorSpec, tensors: dict[str, StoredTensor]
) -> TensorSource:
    kind = output_type(policy, spec)
    tensor = tensors.get(spec.name)
    if tensor is None:
        return TensorSource(spec.name, spec.shape, F32, lambda: [_computed(config.hparams, spec)])
    change = config.changes.get(config.key(spec) or "")

    def parts() -> Iterator[AnyArray]:
        start = 0
        for rows, stored in tensor.rows(spec.name, spec.width):
            if change is None:
                yield convert_values(spec.name, rows, stored, kind)
            else:
                changed = convert_values(spec.name, rows, stored, F32)
                changed = changed + change.rows(start, len(rows))
                yield convert_values(spec.name, changed, F32, kind)
            start += len(rows)

    return TensorSource(spec.name, spec.shape, kind, parts)


def _computed(hparams: HParams, spec: TensorSpec) -> FloatArray:
    """A tensor that no checkpoint holds: the mel filters, or a norm without parameters."""
    if spec.name == MEL_FILTERS:
        return mel_filters(hparams.front_end)
    fill = np.ones if spec.name.endswith(".weight") else np.zeros
    return fill(spec.shape, np.float32)


# Metadata


def _general_metadata(
    form: Format[Any], directory: Path, name: str | None, parameters: int, policy: OutType
) -> Metadata:
    """The Hub's keys, from the model card beside the checkpoint where there is one."""
    name = name or directory.resolve().name
    scratch = gguf.GGUFWriter(None, form.name)
    with _quiet():
        found = gguf.Metadata.load(model_path=directory, total_params=parameters)
        parts = gguf.Metadata.get_model_id_components(name, parameters)
    found.name = gguf.Metadata.id_to_title(name)  # type: ignore[no-untyped-call]
    _full, found.organization, found.basename, found.finetune, found.version, found.size_label = (
        parts
    )
    if found.size_label is None:
        found.size_label = gguf.size_label(parameters, 0, 0, 0)
    found.set_gguf_meta_model(scratch)
    scratch.add_file_type(policy.file_type)
    return {
        key: MetadataValue(value.type, value.value, value.sub_type or _element_type(value.value))
        for key, value in scratch.kv_data[0].items()
    }


def _element_type(value: Any) -> gguf.GGUFValueType | None:
    return gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """gguf-py reports what it guesses of names to the log; none of it is news to a user."""
    logger = logging.getLogger("gguf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _source_metadata(config: CheckpointConfig, revision: str | None) -> Metadata:
    key = config.format.key
    metadata = {key(Keys.Source.LAYOUT): MetadataValue.of(config.layout.value)}
    if revision:
        metadata[key(Keys.Source.REVISION)] = MetadataValue.of(revision)
    return metadata


def _character_metadata(config: CheckpointConfig) -> Metadata:
    key, size = config.format.key, config.hparams.encoder.ctc_vocab
    metadata = {key(Keys.CTC.VOCAB_SIZE): MetadataValue.of(size)}
    if config.characters is not None:
        metadata[key(Keys.CTC.VOCAB)] = MetadataValue.of("\n".join(config.characters))
    return metadata


def _tokenizer_metadata(directory: Path, hparams: HParams) -> Metadata:
    path = directory / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a checkpoint directory holds it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    with library_errors(CheckpointError, f"{path}: is no byte-level BPE tokenizer"):
        fields = json.loads(text)
        model = fields["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        added = fields["added_tokens"]
        split = fields["pre_tokenizer"]
        parts = [part["type"] for part in split.get("pretokenizers", [split])]
        vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
        kinds = {token["id"]: _token_type(token["content"], token["special"]) for token in added}
        Tokenizer.from_str(text)
    language = hparams.language
    tokens = [f"[PAD{i}]" for i in range(language.vocab_size)]
    types = [int(TokenType.UNUSED)] * language.vocab_size
    for token, i in vocabulary.items():
        if not isinstance(i, int) or not 0 <= i < language.vocab_size:
            raise CheckpointError(
                f"{path}: token {brief(token)} has the id {i}, the model only "
                f"{language.vocab_size} ids"
            )
        tokens[i], types[i] = token, kinds.get(i, TokenType.NORMAL)
    return {
        Keys.Tokenizer.MODEL: MetadataValue.of("gpt2"),
        Keys.Tokenizer.PRE: MetadataValue.of(_SPLITS.get(parts[0], "dbrx")),
        Keys.Tokenizer.TOKENS: MetadataValue.strings(tokens),
        Keys.Tokenizer.TOKEN_TYPE: MetadataValue.integers(map(int, types)),
        Keys.Tokenizer.MERGES: MetadataValue.strings(merges),
        Keys.Tokenizer.BOS: MetadataValue.of(language.bos_token_id),
        Keys.Tokenizer.EOS: MetadataValue.of(language.eos_token_id),
        Keys.Tokenizer.PAD: MetadataValue.of(language.pad_token_id),
        Keys.Tokenizer.HUGGINGFACE: MetadataValue.of(text),
    }


# llama.cpp's names of the ways to split a text, by how they begin in tokenizer.json: at GPT-2's
# pattern, at single digits before it, or else at cl100k's pattern.
_SPLITS = {"ByteLevel": "gpt-2", "Digits": "refact"}


def _token_type(content: str, special: bool) -> TokenType:
    if not special:
        return TokenType.USER_DEFINED
    return TokenType.UNKNOWN if content == "<|unk|>" else TokenType.CONTROL
