"""The autoregressive model: a language model that continues a prompt with audio rows in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from granite_gguf.spec import hparams
from granite_gguf.spec.checks import Check, granite_checks, projector_checks
from granite_gguf.spec.format import Format
from granite_gguf.spec.hparams import MAX_LAYERS, Granite
from granite_gguf.spec.parameters import SAME, Shapes, Told, at
from granite_gguf.spec.tables import granite_tensors
from granite_gguf.spec.tensors import (
    BPE_HEAD,
    CHARACTER_HEAD,
    ENCODER_INPUT,
    LLAMA_NAMES,
    Role,
    Stage,
    Table,
    Trait,
)

# Released vocabularies: Granite 4's, whose added tokens begin with padding and end of text, and
# StarCoder's, whose first token is end of text.
_GRANITE_4_EOS = 100257
USUAL_SECONDS = hparams.FrontEnd.max_pass_seconds
PLUS_SECONDS = 300.0
"""Of a pass of plus: its card names 9 minutes, and 5 where it times words or tells speakers."""
_SEEN_BY_PROJECTOR = "proj.blk.0.ca_key.weight"

_LAYOUTS = {"base": "granite_speech", "plus": "granite_speech_plus", "3.x": "granite_speech_lora"}
_SPLITS = {"base": "dbrx", "plus": "gpt-2", "3.x": "refact"}


# What tells a value that a file does not state.

Values = Mapping[str, Any]


def _half_of_the_layers(_: Shapes, encoder: Values) -> int:
    return int(encoder["n_layers"]) // 2


def _released_eos(_: Shapes, llm: Values) -> int:
    return _GRANITE_4_EOS if llm["vocab_size"] > _GRANITE_4_EOS else 0


def _same_as_eos(_: Shapes, llm: Values) -> int:
    return int(llm["eos_token_id"])


def _before_eos(_: Shapes, llm: Values) -> int:
    return max(int(llm["eos_token_id"]) - 1, 0)


def _pass_seconds(shapes: Shapes, _: Values) -> float:
    seen, encoder = shapes(_SEEN_BY_PROJECTOR), shapes(ENCODER_INPUT)
    plus = seen is not None and encoder is not None and seen[0] > encoder[-1]
    return PLUS_SECONDS if plus else USUAL_SECONDS


def _no_head(shapes: Shapes, _: Values) -> bool:
    return shapes(LLAMA_NAMES.head) is None


@dataclass(frozen=True)
class FrontEnd(hparams.FrontEnd):
    """As the NAR model's, but that every mel frame counts for the maximum."""

    cut_after_maximum: ClassVar[bool] = True

    max_pass_seconds: Annotated[
        float,
        at(
            "{arch}.max_pass_seconds",
            least=1,
            most=3600,
            later=True,
            told=_pass_seconds,
        ),
    ] = USUAL_SECONDS  # PLUS_SECONDS in plus


@dataclass(frozen=True)
class Encoder(hparams.Encoder):
    """Conformer blocks; what files written elsewhere do not state is told by their tensors."""

    ctc_vocab: Annotated[
        int,
        at(
            "{arch}.enc.ctc_vocab",
            "output_dim",
            "output_dim",
            later=True,
            told=Told(CHARACTER_HEAD, 0),
        ),
    ]  # 348, or 256 in 3.x; 0 blank
    # 8, counted from 1
    self_conditioning_layer: Annotated[
        int, at("{arch}.enc.self_conditioning_layer", least=0, later=True, told=_half_of_the_layers)
    ]
    # (3,) in plus, () elsewhere: what is laid beside the final state, numbered as in the NAR model
    captured_layers: Annotated[
        tuple[int, ...],
        at("{arch}.proj.cat_layers", "cat_hidden_layers", "cat_hidden_layers", later=True),
    ] = ()

    @property
    def captured_blocks(self) -> tuple[int, ...]:
        """The captured layers and the final state, in the order of the output."""
        return (*self.captured_layers, self.n_layers)


@dataclass(frozen=True)
class Draft:
    """A BPE CTC head on pooled frames, which drafts the text; no file need have it."""

    bpe_vocab: Annotated[
        int, at("{arch}.enc.bpe_vocab", least=0, later=True, told=Told(BPE_HEAD, 0))
    ] = 0
    pooling_window: Annotated[int, at("{arch}.enc.bpe_pooling_window", most=256, later=True)] = 4
    blank_id: Annotated[int, at("{arch}.enc.bpe_blank_id", least=0, later=True)] = 0
    id_shift: Annotated[int, at("{arch}.enc.bpe_id_shift", least=0, later=True)] = 1


@dataclass(frozen=True)
class Projector:
    """BLIP-2's Q-Former over windows of the encoder's output."""

    n_layers: Annotated[
        int, at("{arch}.proj.n_layers", "num_hidden_layers", SAME, most=MAX_LAYERS)
    ]  # 2
    d_model: Annotated[int, at("{arch}.proj.d_model", "hidden_size", "hidden")]  # 1024
    n_heads: Annotated[int, at("{arch}.proj.n_heads", "num_attention_heads", SAME)]  # 16
    ff_dim: Annotated[int, at("{arch}.proj.ff_dim", "intermediate_size", "intermediate")]  # 4096
    # 1024, or 2048 in plus
    encoder_hidden_size: Annotated[
        int,
        at(
            "{arch}.proj.encoder_hidden_size",
            SAME,
            SAME,
            later=True,
            told=Told(_SEEN_BY_PROJECTOR, 0),
        ),
    ]
    window_size: Annotated[int, at("{arch}.window_size")]  # 15 frames
    downsample_rate: Annotated[int, at("{arch}.downsample_rate")]  # 5 frames
    layer_norm_eps: Annotated[float, at("{arch}.proj.layer_norm_eps", SAME, SAME, later=True)] = (
        1e-12
    )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def n_queries(self) -> int:
        """Queries, and so outputs, of a window."""
        return self.window_size // self.downsample_rate


@dataclass(frozen=True)
class Llm(Granite):
    """Causal Granite layers, over a prompt in which audio rows stand for one token each."""

    eos_token_id: Annotated[
        int, at("{arch}.llm.eos_token_id", SAME, least=0, later=True, told=_released_eos)
    ]  # 100257, or 0 in 3.x
    bos_token_id: Annotated[
        int, at("{arch}.llm.bos_token_id", SAME, least=0, later=True, told=_same_as_eos)
    ]
    pad_token_id: Annotated[
        int, at("{arch}.llm.pad_token_id", SAME, least=0, later=True, told=_before_eos)
    ]  # 100256, or 0 in 3.x
    apply_logits_scaling: Annotated[
        bool, at("{arch}.llm.apply_logits_scaling", later=True, absent=True)
    ]
    audio_token_index: Annotated[int, at("{arch}.audio_token_index", least=0)]  # 100352
    # whether the embedding is the head
    tie_word_embeddings: Annotated[
        bool, at("{arch}.llm.tie_word_embeddings", later=True, told=_no_head)
    ]
    # prompt and text together; what the model was trained with, not a limit
    max_positions: Annotated[
        int,
        at(
            "{arch}.llm.max_positions",
            "max_position_embeddings",
            "max_position_embeddings",
            later=True,
        ),
    ] = 4096


@dataclass(frozen=True)
class Adapter:
    """Low-rank changes of the attention, in 3.x: for prompts with audio only."""

    rank: Annotated[int, at("{arch}.lora.rank", least=0, later=True)] = 0  # 64; 0 none
    alpha: Annotated[float, at("{arch}.lora.alpha", least=0, later=True)] = 0.0  # 32
    # added to the matrices of the file, which then are for prompts with audio only
    merged: Annotated[bool, at("{arch}.lora.merged", later=True)] = False


_VARIANT = re.compile(r"(\d\.\d)(?:[- ]speech)?[- ](\d+b)([- ]plus)?", re.IGNORECASE)


def named_variant(names: str) -> str:
    """The variant that stands in the names of a model, or nothing.

    >>> named_variant("granite-4.0-1b-speech"), named_variant("Granite Speech 4.1 2B Plus")
    ('4.0-1b', '4.1-2b-plus')
    """
    found = _VARIANT.search(names)
    return f"{found[1]}-{found[2].lower()}{'-plus' if found[3] else ''}" if found else ""


def stated_variant(names: str, *, plus: bool, third: bool) -> str:
    """The variant that stands in some names, unless models of that variant have another form.

    Args:
        names: of the model.
        plus: whether it has the form of plus.
        third: whether it has that of 3.x.
    """
    variant = named_variant(names)
    fits = variant.endswith("-plus") is plus and variant.startswith("3.") is third
    return variant if fits else ""


@dataclass(frozen=True)
class Prompt:
    """What to ask by; empty where a file does not say."""

    variant: Annotated[str, at("{arch}.variant", later=True)] = ""  # 4.1-2b-plus
    default: Annotated[str, at("{arch}.prompt.default", later=True)] = ""  # the instruction
    system: Annotated[str, at("{arch}.prompt.system", later=True)] = ""  # the system turn


@dataclass(frozen=True)
class HParams(hparams.HParams):
    """All stages of one model."""

    front_end: FrontEnd
    encoder: Encoder
    draft: Draft
    projector: Projector
    llm: Llm
    adapter: Adapter
    prompt: Prompt

    @property
    def language(self) -> Granite:
        return self.llm

    @property
    def family(self) -> str:
        """``base``, ``plus`` or ``3.x``: models of one are asked in the same form."""
        if self.encoder.captured_layers:
            return "plus"
        variant = self.prompt.variant
        third = variant.startswith("3.") if variant else self.llm.eos_token_id == 0
        return "3.x" if third else "base"

    @property
    def heard(self) -> tuple[str, ...]:
        if self.prompt.variant.startswith("3.2"):
            return ("en",)
        return (*hparams.HEARD, "ja") if self.family == "base" else hparams.HEARD

    @property
    def layout(self) -> str:
        return _LAYOUTS[self.family]

    @property
    def text_split(self) -> str:
        return _SPLITS[self.family]


def _draft_tensors(width: int, d: Draft) -> Table:
    t = Table(Stage.ENCODER)
    if d.bpe_vocab:
        t.linear("enc.bpe_out", width, d.bpe_vocab, trait=Trait.HEAD)
    return t


def _projector_tensors(p: Projector, width: int) -> Table:
    t = Table(Stage.PROJECTOR)
    t.add("proj.query", Role.TABLE, p.d_model, p.n_queries)
    t.norm("proj.ln", p.d_model)
    for t.layer in range(p.n_layers):
        block = f"proj.blk.{t.layer}."
        for attention, seen in (("sa", p.d_model), ("ca", p.encoder_hidden_size)):
            t.linear(f"{block}{attention}_query", p.d_model, p.d_model)
            t.linear(f"{block}{attention}_key", seen, p.d_model)
            t.linear(f"{block}{attention}_value", seen, p.d_model)
            t.linear(f"{block}{attention}_out", p.d_model, p.d_model)
            t.norm(f"{block}{attention}_norm", p.d_model)
        t.linear(f"{block}ffn_up", p.d_model, p.ff_dim)
        t.linear(f"{block}ffn_down", p.ff_dim, p.d_model)
        t.norm(f"{block}ffn_norm", p.d_model)
    t.layer = None
    t.linear("proj.linear", p.d_model, width)
    return t


def _tables(h: HParams) -> Iterator[Table]:
    g = h.llm
    yield _draft_tensors(h.encoder.d_model, h.draft)
    yield _projector_tensors(h.projector, g.d_model)
    yield granite_tensors(g, Stage.LANGUAGE, LLAMA_NAMES, head=not g.tie_word_embeddings)


def _checks(h: HParams) -> Iterator[Check]:
    e, d, p, g = h.encoder, h.draft, h.projector, h.llm
    width = e.d_model * len(e.captured_blocks)
    yield (
        p.encoder_hidden_size == width,
        f"the projector reads {p.encoder_hidden_size} numbers a frame, the encoder gives {width}",
    )
    yield from projector_checks(p.d_model, p.n_heads, p.window_size, p.downsample_rate)
    yield from granite_checks(g)
    yield (
        g.audio_token_index < g.vocab_size,
        f"the audio token {g.audio_token_index} lies beyond the vocabulary of {g.vocab_size}",
    )
    yield (
        not d.bpe_vocab
        or (d.bpe_vocab - 1 - d.id_shift < g.vocab_size and d.blank_id < max(d.id_shift, 1)),
        f"{d.bpe_vocab} BPE outputs with blank {d.blank_id}, shifted by {d.id_shift}, do not "
        f"fit a vocabulary of {g.vocab_size}",
    )


def _named(h: HParams, names: str) -> HParams:
    """With the variant, by which a model is asked, where only the names tell it."""
    if h.prompt.variant:
        return h
    plus, third = h.family == "plus", h.family == "3.x"
    variant = stated_variant(names, plus=plus, third=third)
    return replace(h, prompt=replace(h.prompt, variant=variant))


SPEECH = Format(
    "granite_speech",
    "a Granite Speech model",
    HParams,
    _tables,
    _checks,
    unused=frozenset({"audio.mel_window"}),
    named=_named,
)
