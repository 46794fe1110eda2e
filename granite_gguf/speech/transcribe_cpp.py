"""Reads ``granite_speech`` files with keys under ``stt.granite.``.

CrispASR's files name the same architecture and have other keys. What hyper-parameters are called
stands beside each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from granite_gguf.fields import MetadataFields, read_stage
from granite_gguf.spec.names import NameTable
from granite_gguf.spec.parameters import Shapes
from granite_gguf.spec.tensors import TensorSpec
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
from granite_gguf.storage.container import Container
from granite_gguf.storage.dialects.dialect import Replacement
from granite_gguf.storage.dialects.transcribe_cpp.common import (
    FORM,
    FRONT_END,
    VARIANT,
    TranscribeCpp,
    values,
)
from granite_gguf.storage.dialects.transcribe_cpp.names import ENCODER_BLOCK, GRANITE_BLOCK, TOP
from granite_gguf.storage.keys import Keys

_ROOT = "stt.granite."
_ENCODER, _PROJECTOR, _DECODER = _ROOT + "encoder.", _ROOT + "projector.", _ROOT + "decoder."

_QUERY = "proj.query"
_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "out"}

_NAMES = NameTable(
    top={
        **TOP,
        _QUERY: "proj.query",
        "proj.ln": "proj.qformer.final_norm",  # on the queries, before the layers
        "proj.linear": "proj.linear",
        "token_embd": "dec.token_embd",
        "output_norm": "dec.output_norm",
        "output": "dec.output",
    },
    blocks={
        "enc": ("enc.blocks", ENCODER_BLOCK),
        "proj": (
            "proj.qformer.blocks",
            {
                **{f"sa_{ours}": f"self_attn.{theirs}" for ours, theirs in _ATTENTION.items()},
                **{f"ca_{ours}": f"cross_attn.{theirs}" for ours, theirs in _ATTENTION.items()},
                "sa_norm": "norm_self_attn",
                "ca_norm": "norm_cross_attn",
                "ffn_up": "ffn.up",
                "ffn_down": "ffn.down",
                "ffn_norm": "norm_ffn",
            },
        ),
        "": ("dec.blocks", GRANITE_BLOCK),
    },
)


class TranscribeCppSpeech(TranscribeCpp[HParams]):
    """Reads the autoregressive model's files; they have no draft head and no adapter."""

    architecture = "granite_speech"
    prefix = _ROOT
    format = SPEECH
    names = _NAMES
    splits: ClassVar = {"granite": "dbrx", "gpt2": "gpt-2"}
    only = (
        (_PROJECTOR + "hidden_act", "gelu", False),
        (_PROJECTOR + "cross_attn_frequency", 1, False),
        (_DECODER + "hidden_act", "silu", False),
    )

    def read_fields(self, fields: MetadataFields, shapes: Shapes) -> HParams:
        encoder, decoder, root = map(fields.under, (_ENCODER, _DECODER, _ROOT))
        d_model = encoder.get(int, "hidden")
        captured = tuple(sorted(encoder.get(tuple, "cat_hidden_layers", ())))
        eos = fields.get(int, Keys.Tokenizer.EOS)
        return HParams(
            front_end=read_stage(
                FrontEnd,
                fields.under(FRONT_END),
                FORM,
                max_pass_seconds=PLUS_SECONDS if captured else USUAL_SECONDS,
            ),
            encoder=read_stage(
                Encoder,
                encoder,
                FORM,
                conv_dim=d_model * encoder.get(int, "conv_expansion"),
                ff_dim=d_model * encoder.get(int, "feedforward_mult"),
                self_conditioning_layer=encoder.get(int, "n_layers") // 2,
                captured_layers=captured,
            ),
            draft=Draft(),
            projector=read_stage(
                Projector,
                fields.under(_PROJECTOR),
                FORM,
                window_size=root.get(int, "window_size"),
                downsample_rate=root.get(int, "downsample_rate"),
            ),
            llm=read_stage(
                Llm,
                decoder,
                FORM,
                d_model=decoder.get(int, "hidden_size"),
                ff_dim=decoder.get(int, "intermediate_size"),
                eos_token_id=eos,
                bos_token_id=fields.get(int, Keys.Tokenizer.BOS, eos),
                pad_token_id=fields.get(int, Keys.Tokenizer.PAD, eos),
                apply_logits_scaling=True,
                audio_token_index=root.get(int, "audio_token_id"),
                tie_word_embeddings=decoder.get(bool, "tie_word_embeddings"),
            ),
            adapter=Adapter(),
            prompt=Prompt(variant=named_variant(fields.get(str, VARIANT, ""))),
        )

    def replaced(
        self, stored: Container, hparams: HParams, specs: Mapping[str, TensorSpec]
    ) -> dict[str, Replacement]:
        """Also the queries, which such files round as they do matrices: nothing multiplies them."""
        queries = values(stored, self.stored_name(_QUERY)).reshape(specs[_QUERY].shape[::-1])
        return {**super().replaced(stored, hparams, specs), _QUERY: Replacement.of(queries)}
