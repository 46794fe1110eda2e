"""Reads ``granite_speech_nar`` files.

Like the tool that writes such files, a reader takes the keys that came later for what they meant
before, where they are absent. What hyper-parameters are called stands beside each of them.
"""

from __future__ import annotations

from typing import ClassVar

from granite_gguf.fields import MetadataFields, read_stage
from granite_gguf.nar.spec import NAR, Editor, HParams, Hypothesis, Projector
from granite_gguf.spec.hparams import Encoder, FrontEnd
from granite_gguf.spec.names import NameTable
from granite_gguf.spec.parameters import Shapes
from granite_gguf.storage.container import Container
from granite_gguf.storage.dialects.transcribe_cpp.common import FORM, FRONT_END, TranscribeCpp
from granite_gguf.storage.dialects.transcribe_cpp.names import ENCODER_BLOCK, GRANITE_BLOCK, TOP

_ROOT = "stt.granite_nar."
_ENCODER, _PROJECTOR, _TEXT = _ROOT + "encoder.", _ROOT + "projector.", _ROOT + "text."
_CTC_CHARACTERS = _ROOT + "ctc_chars"

_NAMES = NameTable(
    top={
        **TOP,
        "enc.bpe_out": "enc.ctc_bpe",
        "proj.layer_norm": "prj.layer_norms",
        "proj.layer_proj": "prj.layer_projector",
        "proj.query": "prj.query",
        "proj.window_positions": "prj.window_positions",
        "proj.out_norm": "prj.out_norm",
        "proj.out_linear": "prj.out_linear",
        "llm.token_embd": "dec.token_embd",
        "llm.norm": "dec.output_norm",
    },
    blocks={
        "enc": ("enc.blocks", {k: v.replace(".", "_") for k, v in ENCODER_BLOCK.items()}),
        "proj": (
            "prj.blocks",
            {
                "attn_norm": "norm_attn",
                "attn_q": "cross_attn_q",
                "attn_k": "cross_attn_k",
                "attn_v": "cross_attn_v",
                "attn_o": "cross_attn_o",
                "mlp_norm": "norm_ffn",
                "mlp_fc1": "ffn_fc1",
                "mlp_fc2": "ffn_fc2",
            },
        ),
        "llm": ("dec.blocks", GRANITE_BLOCK),
    },
)


class TranscribeCppNar(TranscribeCpp[HParams]):
    """Reads the non-autoregressive model's files."""

    architecture = "granite_speech_nar"
    prefix = _ROOT
    format = NAR
    names = _NAMES
    splits: ClassVar = {"granite": "dbrx"}
    only = ((_TEXT + "hidden_act", "silu", False), (_TEXT + "tie_word_embeddings", True, True))

    def read_fields(self, fields: MetadataFields, shapes: Shapes) -> HParams:
        encoder, projector = fields.under(_ENCODER), fields.under(_PROJECTOR)
        d_model = encoder.get(int, "hidden")
        blank = encoder.get(int, "bpe_blank_id", 0)
        first = blank == 0  # only the first release's BPE head has the blank as its first output
        return HParams(
            front_end=read_stage(FrontEnd, fields.under(FRONT_END), FORM),
            encoder=read_stage(
                Encoder,
                encoder,
                FORM,
                conv_dim=d_model * encoder.get(int, "conv_expansion"),
                ff_dim=d_model * encoder.get(int, "feedforward_mult"),
            ),
            hypothesis=read_stage(
                Hypothesis,
                encoder,
                FORM,
                blank_id=blank,
                id_shift=1 if first else 0,
                retokenize=first,
            ),
            projector=read_stage(
                Projector,
                projector,
                FORM,
                attn_bias=projector.get(bool, "attn_bias", _has(shapes, "cross_attn_q")),
                mlp_bias=projector.get(bool, "mlp_bias", _has(shapes, "ffn_fc1")),
                scale_embeddings=fields.under(_ROOT).get(bool, "scale_projected_embeddings", True),
            ),
            editor=read_stage(Editor, fields.under(_TEXT), FORM, apply_logits_scaling=not first),
        )

    def characters(self, stored: Container, hparams: HParams) -> str | None:
        """One a line. The tool that writes them may list too many."""
        found, size = stored.strings(_CTC_CHARACTERS), hparams.encoder.ctc_vocab
        if found is None or len(found) < size:
            return None
        return "\n".join("" if "\n" in text else text for text in found[:size])


def _has(shapes: Shapes, part: str) -> bool:
    """Whether the projector's matrices of a kind have a bias, which no key need say."""
    return shapes(f"prj.blocks.0.{part}.bias") is not None
