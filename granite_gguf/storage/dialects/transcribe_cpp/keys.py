"""The metadata keys of ``granite_speech_nar`` that stand for no single hyper-parameter of ours.

What the others are called stands beside each hyper-parameter. Like the tool that writes such
files, a reader takes the keys that came later for what they meant before, where they are absent.
"""

from __future__ import annotations

from granite_gguf.fields import MetadataFields, read_stage
from granite_gguf.spec.hparams import Encoder, FrontEnd
from granite_gguf.spec.nar import Editor, HParams, Hypothesis, Projector
from granite_gguf.spec.parameters import Shapes
from granite_gguf.storage.keys import Keys

ARCHITECTURE = "granite_speech_nar"
OWN_PREFIX = "stt."

CTC_CHARACTERS = "stt.granite_nar.ctc_chars"
VARIANT = "stt.variant"

_FRONT_END = "stt.frontend."
_ROOT = "stt.granite_nar."
_ENCODER, _PROJECTOR, _TEXT = _ROOT + "encoder.", _ROOT + "projector.", _ROOT + "text."

# Values of which the model has one only: key, value, and whether the key may be absent.
_ONLY: tuple[tuple[str, str | bool, bool], ...] = (
    (_FRONT_END + "type", "mel", False),
    (_FRONT_END + "window", "hann_periodic", False),
    (_FRONT_END + "normalize", "per_utterance", False),
    (_FRONT_END + "pad_mode", "reflect", True),
    (_FRONT_END + "mel_norm", "htk", True),
    (_TEXT + "hidden_act", "silu", False),
    (_TEXT + "tie_word_embeddings", True, True),
    (Keys.Tokenizer.MODEL, "gpt2", False),
    (Keys.Tokenizer.PRE, "granite", False),  # the split that llama.cpp calls dbrx
)

_FORM = "stt"


def read_hparams(fields: MetadataFields, shapes: Shapes) -> HParams:
    """Hyper-parameters of a ``granite_speech_nar`` file.

    Args:
        fields: its metadata.
        shapes: of its tensors, by their names there.

    Raises:
        ModelFileError: a key is missing, of a wrong type, or of a value that is not supported.
    """
    for key, expected, optional in _ONLY:
        fields.require(key, expected, optional=optional)
    encoder, projector = fields.under(_ENCODER), fields.under(_PROJECTOR)
    d_model = encoder.get(int, "hidden")
    blank = encoder.get(int, "bpe_blank_id", 0)
    first = blank == 0  # only the first release's BPE head has the blank as its first output
    return HParams(
        front_end=read_stage(FrontEnd, fields.under(_FRONT_END), _FORM),
        encoder=read_stage(
            Encoder,
            encoder,
            _FORM,
            conv_dim=d_model * encoder.get(int, "conv_expansion"),
            ff_dim=d_model * encoder.get(int, "feedforward_mult"),
        ),
        hypothesis=read_stage(
            Hypothesis,
            encoder,
            _FORM,
            blank_id=blank,
            id_shift=1 if first else 0,
            retokenize=first,
        ),
        projector=read_stage(
            Projector,
            projector,
            _FORM,
            attn_bias=projector.get(bool, "attn_bias", _has(shapes, "cross_attn_q")),
            mlp_bias=projector.get(bool, "mlp_bias", _has(shapes, "ffn_fc1")),
            scale_embeddings=fields.under(_ROOT).get(bool, "scale_projected_embeddings", True),
        ),
        editor=read_stage(Editor, fields.under(_TEXT), _FORM, apply_logits_scaling=not first),
    )


def _has(shapes: Shapes, part: str) -> bool:
    """Whether the projector's matrices of a kind have a bias, which no key need say."""
    return shapes(f"prj.blocks.0.{part}.bias") is not None
