"""The JSON of the autoregressive model's checkpoints.

    config.json, preprocessor_config.json | processor_config.json, adapter_config.json,
    chat_template.jinja → CheckpointConfig

``granite_speech`` is 4.0-1b and 4.1-2b, ``granite_speech_plus`` the model that lays encoder layers
side by side, ``granite_speech_lora`` 3.3, whose adapter is added to the language model.
``granite_speech_3.2`` is the same as the code in its repository wrote it, before transformers had
the model (sources: vLLM's first port of that code, CrispASR's converter; no file was seen).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from granite_gguf.converters.checkpoint import (
    Change,
    CheckpointConfig,
    ConfigReader,
    Layout,
    read_json,
)
from granite_gguf.converters.safetensors_source import read_tensors
from granite_gguf.converters.speech.adapter import read_adapter
from granite_gguf.converters.speech.names import DRAFT_PREFIX, checkpoint_key, oldest_key
from granite_gguf.converters.speech.prompts import prompt
from granite_gguf.converters.speech.settled import settled
from granite_gguf.errors import CheckpointError, brief
from granite_gguf.fields import JsonFields, read_stage
from granite_gguf.spec.tensors import TensorSpec
from granite_gguf.speech.spec import (
    PLUS_SECONDS,
    SPEECH,
    Adapter,
    Draft,
    Encoder,
    FrontEnd,
    HParams,
    Llm,
    Projector,
)
from granite_gguf.storage.container import MetadataValue
from granite_gguf.storage.keys import Keys

_DRAFT_HEAD = "out_llm.safetensors"
_FORM = "json"
_ADAPTED = "has_lora_adapter"
_OLDEST_PROJECTOR = "granite_speech_qformer"


def _recognise(root: JsonFields) -> Layout | None:
    model_type = root.find("model_type")
    if model_type == "granite_speech_plus":
        return Layout.PLUS
    if model_type == "granite_speech":
        projector = root.find("projector_config")
        if isinstance(projector, dict) and projector.get("model_type") == _OLDEST_PROJECTOR:
            return Layout.OLDEST
        return Layout.LORA if root.get(bool, _ADAPTED, False) else Layout.SPEECH
    return None


def _read(directory: Path, root: JsonFields, layout: Layout) -> CheckpointConfig:
    key = checkpoint_key
    if layout is Layout.OLDEST:
        root, key = _as_written_later(root), oldest_key
    adapted = layout is Layout.LORA or (layout is Layout.OLDEST and root.get(bool, _ADAPTED))
    adapter, changes = read_adapter(directory) if adapted else (Adapter(), {})
    draft_head = directory / _DRAFT_HEAD
    has_draft = layout is Layout.SPEECH and draft_head.is_file()
    llm = _llm(directory, root)
    hparams = HParams(
        front_end=_front_end(directory, layout),
        encoder=_encoder(root, layout),
        draft=_draft(draft_head) if has_draft else Draft(),
        projector=_projector(root),
        llm=llm,
        adapter=adapter,
        prompt=prompt(
            _name(directory, root),
            plus=layout is Layout.PLUS,
            third="3.2" if layout is Layout.OLDEST else "3.3" if layout is Layout.LORA else "",
            draft=has_draft,
            width=llm.d_model,
        ),
    )
    _check_changes(directory, hparams, changes, key)
    template = _chat_template(directory)
    return CheckpointConfig(
        SPEECH,
        layout,
        hparams,
        None,
        key,
        beside={DRAFT_PREFIX: draft_head} if has_draft else {},
        changes=changes,
        metadata=(
            {} if template is None else {Keys.Tokenizer.CHAT_TEMPLATE: MetadataValue.of(template)}
        ),
    )


CONFIG = ConfigReader(
    SPEECH, "'granite_speech' or 'granite_speech_plus'", _recognise, _read, settled
)


def _as_written_later(root: JsonFields) -> JsonFields:
    """A config.json of 3.2 in the form of 3.3, with what its own code takes by itself."""
    encoder, projector = (
        root.section(f"{name}_config").values for name in ("encoder", "projector")
    )
    values = {
        "audio_token_index": 49155,
        _ADAPTED: True,
        "window_size": 15,
        "downsample_rate": 5,
        **root.values,
        **{
            name: projector[name]
            for name in ("window_size", "downsample_rate")
            if name in projector
        },
        "encoder_config": {"max_pos_emb": 512, **encoder},
        "projector_config": {**projector, "model_type": "blip_2_qformer"},
    }
    return JsonFields(root.path, values, root.prefix)


def _name(directory: Path, root: JsonFields) -> str:
    """The names that may tell the variant: the repository's where config.json has it."""
    return f"{root.get(str, '_name_or_path', '')} {directory.resolve().name}"


def _front_end(directory: Path, layout: Layout) -> FrontEnd:
    """Its numbers, where either file states them; the feature extractor's defaults hold."""
    default = FrontEnd()
    if layout is Layout.PLUS:
        default = FrontEnd(max_pass_seconds=PLUS_SECONDS)
    path = directory / "preprocessor_config.json"
    if path.is_file():
        fields = read_json(path)
    else:
        fields = read_json(directory / "processor_config.json")
        if "audio_processor" not in fields:
            return default
        fields = fields.section("audio_processor")
    longest = fields.get(float, "max_pass_seconds", default.max_pass_seconds)
    default = replace(default, max_pass_seconds=longest)
    if "melspec_kwargs" not in fields:
        return default
    mel = fields.section("melspec_kwargs")
    return replace(
        default,
        sample_rate=mel.get(int, "sample_rate", default.sample_rate),
        n_mels=mel.get(int, "n_mels", default.n_mels),
        n_fft=mel.get(int, "n_fft", default.n_fft),
        win_length=mel.get(int, "win_length", default.win_length),
        hop_length=mel.get(int, "hop_length", default.hop_length),
    )


def _encoder(root: JsonFields, layout: Layout) -> Encoder:
    fields = root.section("encoder_config")
    d_model, n_heads = fields.get(int, "hidden_dim"), fields.get(int, "num_heads")
    captured: tuple[int, ...] = ()
    if layout is Layout.PLUS:
        captured = tuple(sorted(fields.get(tuple, "cat_hidden_layers")))
    elif fields.find("cat_hidden_layers"):
        raise fields.wrong("cat_hidden_layers", "none where model_type is granite_speech")
    return read_stage(
        Encoder,
        fields,
        _FORM,
        head_dim=fields.get(int, "dim_head", d_model // n_heads if n_heads else 0),
        conv_dim=d_model * fields.get(int, "conv_expansion_factor"),
        ff_dim=d_model * fields.get(int, "feedforward_mult"),
        self_conditioning_layer=fields.get(int, "num_layers") // 2,
        captured_layers=captured,
    )


def _draft(path: Path) -> Draft:
    """The BPE head as its file has it: one output for the blank, then one for each token."""
    tensors = read_tensors(path)
    bias = tensors.get("bias")
    if bias is None or len(bias.shape) != 1:
        raise CheckpointError(f"{path}: has no vector `bias`, expected the BPE head")
    return Draft(bpe_vocab=bias.shape[0])


def _projector(root: JsonFields) -> Projector:
    fields = root.section("projector_config")
    fields.require("model_type", "blip_2_qformer")
    fields.require("hidden_act", "gelu")
    fields.require("cross_attention_frequency", 1)
    fields.require("use_qformer_text_input", False)
    return read_stage(
        Projector,
        fields,
        _FORM,
        window_size=root.get(int, "window_size"),
        downsample_rate=root.get(int, "downsample_rate"),
    )


def _llm(directory: Path, root: JsonFields) -> Llm:
    fields = root.section("text_config")
    for name, only in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        fields.require(name, only)
    d_model, n_heads = fields.get(int, "hidden_size"), fields.get(int, "num_attention_heads")
    eos = _eos(directory, fields)
    return read_stage(
        Llm,
        fields,
        _FORM,
        optional=("max_positions",),
        head_dim=fields.get(int, "head_dim", d_model // n_heads if n_heads else 0),
        rope_theta=_rope_theta(fields),
        apply_logits_scaling=True,
        eos_token_id=eos,
        bos_token_id=fields.get(int, "bos_token_id", eos),
        pad_token_id=fields.get(int, "pad_token_id", eos),
        audio_token_index=root.get(int, "audio_token_index"),
        tie_word_embeddings=_tied(root, fields),
    )


def _rope_theta(fields: JsonFields) -> float:
    """Wherever the configuration keeps it, which depends on the version that wrote it."""
    fields.require("rope_scaling", None)
    if "rope_parameters" not in fields or fields.find("rope_parameters") is None:
        return fields.get(float, "rope_theta")
    rope = fields.section("rope_parameters")
    rope.require("rope_type", "default")
    theta = rope.get(float, "rope_theta", fields.find("rope_theta"))
    if theta is None:
        raise rope.missing("rope_theta", float)
    flat = fields.find("rope_theta")
    if flat is not None and flat != theta:
        raise fields.wrong("rope_theta", f"{theta:g} as in rope_parameters")
    return float(theta)


def _eos(directory: Path, fields: JsonFields) -> int:
    if fields.find("eos_token_id") is not None:
        return fields.get(int, "eos_token_id")
    path = directory / "generation_config.json"
    if not path.is_file():
        raise fields.missing("eos_token_id", int)
    return read_json(path).get(int, "eos_token_id")


def _tied(root: JsonFields, fields: JsonFields) -> bool:
    """The language model's own flag; older configurations have it at the root only."""
    return fields.get(bool, "tie_word_embeddings", root.get(bool, "tie_word_embeddings", True))


def _chat_template(directory: Path) -> str | None:
    path = directory / "chat_template.jinja"
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            fields = read_json(directory / name)
            if fields.find("chat_template") is not None:
                return fields.get(str, "chat_template")
    return None


def _check_changes(
    directory: Path,
    hparams: HParams,
    changes: Mapping[str, Change],
    key_of: Callable[[TensorSpec], str | None],
) -> None:
    """Refuse an adapter of which something would be left out."""
    shapes = {key_of(spec): spec.shape for spec in SPEECH.tensors(hparams).values()}
    for key, change in changes.items():
        if key not in shapes:
            raise CheckpointError(
                f"{directory}: the adapter changes {brief(key)}, which is unknown"
            )
        if change.shape != shapes[key][::-1]:
            raise CheckpointError(
                f"{directory}: the adapter changes {brief(key)} as {list(change.shape)}, the "
                f"configuration says {list(shapes[key][::-1])}"
            )
