"""The JSON of the three checkpoint layouts.

    config.json, preprocessor_config.json | processor_config.json → CheckpointConfig

``nle`` is the model's first release, ``granite_speech_nar`` the later one on the Hub, ``native``
the port to transformers. They are told apart by their fields; what they mean differently becomes
hyper-parameters, so that nothing after this module asks for the layout.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from granite_gguf.converters.checkpoint import CheckpointConfig, ConfigReader, Layout, read_json
from granite_gguf.converters.nar.names import checkpoint_key
from granite_gguf.errors import CheckpointError, brief
from granite_gguf.fields import JsonFields, read_stage
from granite_gguf.nar.spec import NAR, Editor, HParams, Hypothesis, Projector
from granite_gguf.spec.hparams import Encoder, FrontEnd


def _recognise(root: JsonFields) -> Layout | None:
    model_type = root.find("model_type")
    if model_type == "nle":
        return Layout.NLE
    if model_type == "granite_speech_nar" and "encoder_config" in root:
        encoder = root.section("encoder_config")
        if "bpe_output_dim" in encoder:
            return Layout.HUB
        if "vocabulary_size" in encoder or "cat_hidden_layers" in encoder:
            return Layout.NATIVE
    return None


def _read(directory: Path, root: JsonFields, layout: Layout) -> CheckpointConfig:
    encoder = _encoder(root, layout)
    hparams = HParams(
        front_end=_front_end(directory, layout),
        encoder=encoder,
        hypothesis=_hypothesis(root, layout),
        projector=_projector(root, layout, encoder),
        editor=_editor(root, layout),
    )
    # Of the releases only the first one names the characters.
    named = layout is Layout.NLE or root.find("ctc_tokenizer_config") is not None
    characters = _characters(root, encoder.ctc_vocab) if named else None
    return CheckpointConfig(NAR, layout, hparams, characters, partial(checkpoint_key, layout))


CONFIG = ConfigReader(
    NAR,
    "'nle' or 'granite_speech_nar' with an encoder_config",
    _recognise,
    _read,
)


def _form(layout: Layout) -> str:
    """Whose names for hyper-parameters a layout has."""
    return "native" if layout is Layout.NATIVE else "json"


def _front_end(directory: Path, layout: Layout) -> FrontEnd:
    native = layout is Layout.NATIVE
    fields = read_json(directory / f"{'processor' if native else 'preprocessor'}_config.json")
    return read_stage(
        FrontEnd,
        fields.section("feature_extractor") if native else fields,
        _form(layout),
        optional=("sample_rate", "n_fft", "win_length", "hop_length", "max_pass_seconds"),
        pad_last_frame=native,
    )


def _encoder(root: JsonFields, layout: Layout) -> Encoder:
    fields = root.section("encoder_config")
    d_model = fields.get(int, "hidden_dim")
    native = layout is Layout.NATIVE
    return read_stage(
        Encoder,
        fields,
        _form(layout),
        conv_dim=d_model * fields.get(int, "conv_expansion_factor"),
        ff_dim=d_model * fields.get(int, "feedforward_mult"),
        captured_layers=(
            (*fields.get(tuple, "cat_hidden_layers"), -1)  # the final state is always appended
            if native
            else root.get(tuple, "encoder_layer_indices")
        ),
        capture_before_feedback=native,
    )


def _hypothesis(root: JsonFields, layout: Layout) -> Hypothesis:
    fields = root.section("encoder_config")
    if layout is Layout.NLE:
        return read_stage(Hypothesis, fields, _form(layout))
    blank = fields if "blank_token_id" in fields else root
    return read_stage(
        Hypothesis,
        fields,
        _form(layout),
        blank_id=blank.get(int, "blank_token_id"),
        id_shift=0,
        retokenize=False,
    )


def _projector(root: JsonFields, layout: Layout, encoder: Encoder) -> Projector:
    fields = root.section("projector_config")
    fields.require("hidden_act", "silu")
    if layout is not Layout.NATIVE:
        scaled = root.get(bool, "scale_projected_embeddings")
        return read_stage(Projector, fields, _form(layout), scale_embeddings=scaled)
    fields.require("num_key_value_heads", fields.get(int, "num_attention_heads"))
    hidden, inner = fields.get(int, "hidden_size"), fields.get(int, "intermediate_size")
    if not hidden or inner % hidden:
        raise fields.wrong("intermediate_size", f"a multiple of {hidden}")
    return read_stage(
        Projector,
        fields,
        _form(layout),
        mlp_ratio=inner // hidden,
        num_encoder_layers=len(encoder.captured_layers),
        encoder_dim=encoder.d_model,
        llm_dim=hidden,
        mlp_bias=fields.get(bool, "mlp_bias", True),
        scale_embeddings=True,
    )


def _editor(root: JsonFields, layout: Layout) -> Editor:
    nle = layout is Layout.NLE
    fields = root.section("llm_config" if nle else "text_config")
    fields.require("hidden_act", "silu")
    fields.require("attention_bias", False)
    fields.require("mlp_bias", False)
    fields.require("tie_word_embeddings", True)
    d_model, n_heads = fields.get(int, "hidden_size"), fields.get(int, "num_attention_heads")
    rope = fields if nle else fields.section("rope_parameters")
    rope.require("rope_type", "default")
    fields.require("rope_scaling", None)
    return read_stage(
        Editor,
        fields,
        _form(layout),
        optional=("max_positions",),
        head_dim=fields.get(int, "head_dim", d_model // n_heads if n_heads else 0),
        rope_theta=rope.get(float, "rope_theta"),
        apply_logits_scaling=not nle,
        bos_token_id=fields.get(int, "bos_token_id", fields.get(int, "eos_token_id")),
        min_edit_length=_min_edit_length(root, layout),
    )


def _min_edit_length(root: JsonFields, layout: Layout) -> int:
    if layout is Layout.HUB:
        return root.get(int, "min_edit_sequence_length")
    return 8 if layout is Layout.NLE else 0


def _characters(root: JsonFields, size: int) -> tuple[str, ...]:
    """The character head's outputs by id. A newline cannot be stored and counts as unmapped."""
    characters = [""] * size
    if root.find("ctc_tokenizer_config") is None:
        return tuple(characters)
    named = root.section("ctc_tokenizer_config").get(dict, "char2idx")
    for character, index in named.items():
        if not isinstance(index, int) or not 0 <= index < size:
            raise CheckpointError(
                f"{root.path}: ctc_tokenizer_config.char2idx maps {brief(character)} to "
                f"{brief(index)}, expected an id below {size}"
            )
        characters[index] = "" if "\n" in character else character
    return tuple(characters)
