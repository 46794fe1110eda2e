"""Reads pairs of files for llama.cpp: a ``granite`` language model, and beside it its audio part.

    TEXT.gguf      general.architecture granite   keys granite.*      tensors token_embd, blk.N.*
    mmproj.gguf    general.architecture clip      keys clip.audio.*   tensors a.*

What differs from ours: rows of queries and keys are turned for rotary positions in neighbouring
pairs, the encoder's keys and values lie apart, and each batch norm is one scale and one shift. The
filterbank, the front end's numbers and the epsilons are llama.cpp's constants, and those of every
released model.

Names and keys are those of gguf-py's tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import ModelFileError, UnsupportedModelError
from granite_gguf.fields import MetadataFields
from granite_gguf.ggml.types import F32
from granite_gguf.sound.features import mel_filters
from granite_gguf.spec.hparams import LAYER_NORM_EPS
from granite_gguf.spec.names import NameTable
from granite_gguf.spec.tensors import LLAMA_NAMES, MEL_FILTERS, Role, TensorSpec
from granite_gguf.speech.spec import (
    PLUS_SECONDS,
    SPEECH,
    USUAL_SECONDS,
    Adapter,
    Draft,
    Encoder,
    FrontEnd,
    HParams,
    Llm,
    Projector,
    Prompt,
    named_variant,
)
from granite_gguf.storage.container import Container, MetadataValue, to_float32
from granite_gguf.storage.dialects.dialect import Dialect, Replacement
from granite_gguf.storage.dialects.own import hparams_metadata
from granite_gguf.storage.keys import Keys

_ARCHITECTURE = "granite"
_AUDIO = "clip.audio."
_PROJECTOR_TYPE, _HEARING = "clip.projector_type", "granite_speech"
_AUDIO_TOKEN = "<|audio|>"

_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "out", "norm": "norm"}

# Of encoder and projector alone: ours of the language model are llama.cpp's.
_NAMES = NameTable(
    {
        "enc.input": "a.input_projection",
        "enc.ctc_out": "a.enc_ctc_out",
        "enc.ctc_mid": "a.enc_ctc_out_mid",
        "proj.query": "a.proj_query",
        "proj.ln": "a.proj_norm",
        "proj.linear": "a.proj_linear",
    },
    {
        "enc": (
            "a.blk",
            {
                "ff1_norm": "ffn_norm",
                "ff1_up": "ffn_up",
                "ff1_down": "ffn_down",
                "attn_norm": "ln1",
                "attn_q": "attn_q",
                "attn_out": "attn_out",
                "attn_rel_pos": "attn_rel_pos_emb",
                "conv_norm": "norm_conv",
                "conv_up": "conv_pw1",
                "conv_dw": "conv_dw",
                "conv_bn": "conv_norm",
                "conv_down": "conv_pw2",
                "ff2_norm": "ffn_norm_1",
                "ff2_up": "ffn_up_1",
                "ff2_down": "ffn_down_1",
                "post_norm": "ln2",
            },
        ),
        "proj": (
            "a.proj_blk",
            {
                **{f"sa_{ours}": f"self_attn_{theirs}" for ours, theirs in _ATTENTION.items()},
                **{f"ca_{ours}": f"cross_attn_{theirs}" for ours, theirs in _ATTENTION.items()},
                "ffn_up": "ffn_up",
                "ffn_down": "ffn_down",
                "ffn_norm": "ffn_norm",
            },
        ),
    },
)

_KEYS_AND_VALUES = re.compile(r"enc\.blk\.(\d+)\.attn_kv\.weight")
_ROTATED = re.compile(r"blk\.\d+\.attn_([qk])\.weight")
_STATISTICS = re.compile(r"enc\.blk\.\d+\.conv_bn\.running_(mean|var)")


class LlamaCppPair(Dialect[HParams]):
    """Reads the two files of a pair as one."""

    architecture = _ARCHITECTURE
    prefix = _AUDIO
    format = SPEECH
    beside = "clip"

    def read_hparams(self, stored: Container) -> HParams:
        if stored.beside is None:
            raise UnsupportedModelError(
                f"{stored.path}: is a Granite language model alone, and in its folder is no "
                "mmproj-*.gguf with encoder and projector. Put that file beside it; or name it as "
                "--mmproj to transcribe or inspect, or to convert, which makes one file of both"
            )
        _check_variants(stored, stored.beside)
        fields = self.fields(stored)
        fields.require(Keys.Tokenizer.MODEL, "gpt2", optional=False)
        audio = replace(fields, path=stored.beside.path, owner="clip")
        audio.require(_PROJECTOR_TYPE, _HEARING, optional=False)
        audio, size = audio.under(_AUDIO), _sizes(stored)
        encoder = _encoder(audio, size)
        return HParams(
            front_end=FrontEnd(
                n_mels=encoder.input_dim // FrontEnd.frame_stack,
                max_pass_seconds=PLUS_SECONDS if encoder.captured_layers else USUAL_SECONDS,
            ),
            encoder=encoder,
            draft=Draft(),
            projector=_projector(stored, audio.under("projector."), size),
            llm=_llm(stored, fields),
            adapter=Adapter(),
            prompt=Prompt(),
        )

    def stored_name(self, name: str) -> str:
        if _KEYS_AND_VALUES.fullmatch(name):
            return _parts(name)[0]
        if not name.startswith(("enc.", "proj.")):
            return name  # as llama.cpp's already
        stored = _NAMES(name)
        # The one table of a block that gguf-py names without its parameter.
        return stored.removesuffix(".weight") if ".attn_rel_pos." in name else stored

    def stored_specs(self, hparams: HParams, specs: Iterable[TensorSpec]) -> Iterator[TensorSpec]:
        for spec in specs:
            if spec.name == MEL_FILTERS or _STATISTICS.fullmatch(spec.name):
                continue
            if _KEYS_AND_VALUES.fullmatch(spec.name):
                width, both = spec.shape
                for part in _parts(spec.name):
                    yield replace(spec, name=part, shape=(width, both // 2))
            else:
                yield replace(spec, name=self.stored_name(spec.name))

    def replaced(
        self, stored: Container, hparams: HParams, specs: Mapping[str, TensorSpec]
    ) -> dict[str, Replacement]:
        found: dict[str, Replacement] = {
            MEL_FILTERS: Replacement.of(mel_filters(hparams.front_end))
        }
        for spec in specs.values():
            rotated = _ROTATED.fullmatch(spec.name)
            statistic = _STATISTICS.fullmatch(spec.name)
            if rotated:
                heads = hparams.llm.n_heads if rotated[1] == "q" else hparams.llm.n_kv_heads
                order = halves_from_pairs(heads, hparams.llm.head_dim)
                found[spec.name] = _assembled(stored, (spec.name,), order)
            elif _KEYS_AND_VALUES.fullmatch(spec.name):
                found[spec.name] = _assembled(stored, _parts(spec.name))
            elif statistic:
                # Those with which a batch norm is its scale and its shift.
                value = 0.0 if statistic[1] == "mean" else 1.0 - LAYER_NORM_EPS
                found[spec.name] = Replacement.of(np.full(spec.shape[::-1], value, np.float32))
            elif spec.role is Role.TABLE and spec.name not in found:
                name = self.stored_name(spec.name)
                info = stored.tensors[name]
                if info.type is not F32:  # they are small, and nothing multiplies them
                    values = to_float32(stored.raw(name), info.type, info.shape)
                    found[spec.name] = Replacement.of(values.reshape(spec.shape[::-1]))
        return found

    def metadata(self, stored: Container, hparams: HParams) -> dict[str, MetadataValue]:
        """Ours in place of the pair's own keys; ``general.*`` and the tokenizer's stay."""
        key, pair = self.format.key, (f"{_ARCHITECTURE}.", "clip.")
        ours: dict[str, int | str] = {
            Keys.General.ARCHITECTURE: self.format.name,
            key(Keys.Source.LAYOUT): hparams.layout,
            key(Keys.Source.ARCHITECTURE): self.architecture,
            key(Keys.CTC.VOCAB_SIZE): hparams.encoder.ctc_vocab,
            Keys.Tokenizer.PRE: self.text_split(stored, hparams),
        }
        return {
            **{k: v for k, v in stored.metadata.items() if not k.startswith(pair)},
            **{k: MetadataValue.of(v) for k, v in ours.items()},
            **hparams_metadata(self.format, hparams),
        }


def _check_variants(text: Container, audio: Container) -> None:
    """See that two files are of one model, where both tell."""
    named = [
        named_variant(" ".join(filter(None, (f.text(Keys.General.NAME), f.path.stem))))
        for f in (text, audio)
    ]
    if all(named) and named[0] != named[1]:
        raise ModelFileError(
            f"{audio.path}: is of {named[1]} by its name, expected encoder and projector of "
            f"{text.path}, which is of {named[0]}"
        )


def halves_from_pairs(heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Where each row of a matrix of queries or keys lies in a file for llama.cpp.

    Rotary positions turn number ``i`` of a head with number ``i + head_dim / 2`` of it; there, with
    the neighbour, so that the rows of both halves take turns.

    >>> halves_from_pairs(1, 6)
    array([0, 2, 4, 1, 3, 5])
    """
    rows = np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2)
    turned: npt.NDArray[np.intp] = rows.swapaxes(1, 2).reshape(-1)
    return turned


def _assembled(
    stored: Container, parts: tuple[str, ...], order: npt.NDArray[np.intp] | None = None
) -> Replacement:
    """Matrices one below the other, or the rows of one in another order; no number changes."""
    first, *others = (stored.tensors[part] for part in parts)
    for info in others:
        if info.type is not first.type:
            raise ModelFileError(
                f"{stored.holder(info.name).path}: {first.name} is {first.type.name} and "
                f"{info.name} {info.type.name}, expected one type: they are one matrix"
            )
    rows = sum(stored.tensors[part].shape[1] for part in parts)

    def read() -> npt.NDArray[np.uint8]:
        if order is None:
            return np.concatenate([stored.raw(part) for part in parts])
        return np.asarray(stored.raw(parts[0]).reshape(rows, -1)[order]).reshape(-1)

    return Replacement((first.shape[0], rows), first.type, read, parts)


def _parts(name: str) -> tuple[str, ...]:
    match = _KEYS_AND_VALUES.fullmatch(name)
    assert match is not None
    return tuple(f"a.blk.{match[1]}.attn_{part}.weight" for part in "kv")


# Hyper-parameters

Sizes = Callable[[str, int], int]
"""How long a dimension of a tensor is that every pair has."""


def _sizes(stored: Container) -> Sizes:
    def size(name: str, dimension: int) -> int:
        shape = stored.shape(name)
        if shape is None or dimension >= len(shape):
            raise ModelFileError(
                f"{stored.files[-1].path}: has no tensor {name}, which every such file has"
            )
        return shape[dimension]

    return size


def _encoder(fields: MetadataFields, size: Sizes) -> Encoder:
    epsilon = fields.get(float, "attention.layer_norm_epsilon", LAYER_NORM_EPS)
    if not np.isclose(epsilon, LAYER_NORM_EPS, rtol=1e-3):
        raise fields.wrong("attention.layer_norm_epsilon", f"{LAYER_NORM_EPS:g}")
    layers = fields.get(int, "block_count")
    return Encoder(
        n_layers=layers,
        d_model=fields.get(int, "embedding_length"),
        n_heads=fields.get(int, "attention.head_count"),
        head_dim=size("a.blk.0.attn_rel_pos_emb", 0),
        input_dim=fields.get(int, "num_mel_bins"),
        conv_kernel=fields.get(int, "conv_kernel_size"),
        conv_dim=size("a.blk.0.conv_norm.weight", 0),
        ff_dim=fields.get(int, "feed_forward_length"),
        context_size=fields.get(int, "chunk_size"),
        max_pos_emb=fields.get(int, "max_pos_emb"),
        ctc_vocab=size("a.enc_ctc_out.bias", 0),
        self_conditioning_layer=layers // 2,
        captured_layers=tuple(sorted(fields.get(tuple, "feature_layer", ()))),
    )


def _projector(stored: Container, fields: MetadataFields, size: Sizes) -> Projector:
    known = (n for n in count() if stored.shape(f"a.proj_blk.{n}.ffn_up.bias") is None)
    return Projector(
        n_layers=next(known),
        d_model=size("a.proj_query", 0),
        n_heads=fields.get(int, "head_count"),
        ff_dim=size("a.proj_blk.0.ffn_up.bias", 0),
        encoder_hidden_size=size("a.proj_blk.0.cross_attn_k.weight", 0),
        window_size=fields.get(int, "window_size"),
        downsample_rate=fields.get(int, "downsample_rate"),
        layer_norm_eps=float(np.float32(1e-12)),
    )


def _llm(stored: Container, fields: MetadataFields) -> Llm:
    own = fields.under(f"{_ARCHITECTURE}.")
    own.require("rope.scaling.type", "none")
    d_model, n_heads = own.get(int, "embedding_length"), own.get(int, "attention.head_count")
    tokens = stored.strings(Keys.Tokenizer.TOKENS) or []
    if _AUDIO_TOKEN not in tokens:
        raise ModelFileError(
            f"{stored.path}: {Keys.Tokenizer.TOKENS} has no {_AUDIO_TOKEN}: it is a Granite "
            "language model, but not one that hears"
        )
    eos = fields.get(int, Keys.Tokenizer.EOS)
    return Llm(
        n_layers=own.get(int, "block_count"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=own.get(int, "attention.head_count_kv"),
        head_dim=own.get(int, "rope.dimension_count", d_model // n_heads if n_heads else 0),
        ff_dim=own.get(int, "feed_forward_length"),
        vocab_size=own.get(int, "vocab_size", len(tokens)),
        rope_theta=own.get(float, "rope.freq_base"),
        rms_norm_eps=own.get(float, "attention.layer_norm_rms_epsilon"),
        embedding_multiplier=own.get(float, "embedding_scale"),
        attention_multiplier=own.get(float, "attention.scale"),
        residual_multiplier=own.get(float, "residual_scale"),
        logits_scaling=own.get(float, "logit_scale"),
        apply_logits_scaling=True,
        eos_token_id=eos,
        bos_token_id=fields.get(int, Keys.Tokenizer.BOS, eos),
        pad_token_id=fields.get(int, Keys.Tokenizer.PAD, eos),
        audio_token_index=tokens.index(_AUDIO_TOKEN),
        tie_word_embeddings=stored.shape(LLAMA_NAMES.head) is None,
        max_positions=own.get(int, "context_length"),
    )
