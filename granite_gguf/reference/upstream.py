"""The model as its authors run it: transformers with a checkpoint's own modeling code.

    AutoProcessor or AutoFeatureExtractor -> AutoModel(...).transcribe | generate | forward
                                               └ hooks on modules that the checkpoint's keys name

Models that write token by token are run by transformers' own classes, see `speech.upstream`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf import errors
from granite_gguf.recorded.file import DTYPES
from granite_gguf.recorded.outputs import Names, Precision, Recorded
from granite_gguf.reference import decoding
from granite_gguf.reference.checkpoint import load_tokenizer
from granite_gguf.reference.config import CheckpointError, ModelConfig
from granite_gguf.reference.dtypes import TORCH_DTYPES
from granite_gguf.reference.layouts import read_config
from granite_gguf.reference.recording import (
    ARCHITECTURE,
    Told,
    of_speech,
    refuse_prompt,
    writes_tokens,
)
from granite_gguf.reference.speech.pipeline import MOST_TOKENS
from granite_gguf.reference.speech.prompt import INSTRUCTION
from granite_gguf.reference.speech.upstream import upstream_stages
from granite_gguf.reference.taps import Taps, as_rows, import_transformers, loaded

# Where the layouts keep a module, first match first.
_MODULES = {
    "input": ("encoder.input_linear",),
    "layers": ("encoder.layers",),
    "characters": ("encoder.out",),
    "bpe": ("encoder.out_bpe", "out_bpe"),
    "projector": ("projector",),
    "embedding": (
        *("llm.model.embed_tokens", "language_model.model.embed_tokens"),
        "language_model.embed_tokens",
    ),
    "editor": (*("llm.model.layers.0", "language_model.model.layers.0"), "language_model.layers.0"),
    "norm": ("llm.model.norm", "language_model.model.norm", "language_model.norm"),
}
_METHODS = ("transcribe", "generate", "__call__")


def record_upstream(
    directory: Path,
    samples: NDArray[Any],
    dtype: str,
    note: Callable[[str], None],
    *,
    prompt: str | None = None,
    max_tokens: int | None = None,
) -> Told:
    """Every stage of 16 kHz mono samples (n) that the upstream code lets be seen.

    Args:
        directory: the checkpoint, with its modeling code or of a type transformers knows.
        samples: the recording.
        dtype: f32 or bf16.
        note: is told before Python code of the checkpoint is run.
        prompt: the instruction, where the model is given one; by default to transcribe.
        max_tokens: the most tokens, where the model writes one after the other.

    Raises:
        granite_gguf.errors.CheckpointError: the model cannot be loaded or run, or a stage's
            module is missing or never called.
        granite_gguf.errors.MissingExtraError: transformers is not installed.
        granite_gguf.errors.InputError: the model takes no prompt.
    """
    try:
        if writes_tokens(directory):
            asked = INSTRUCTION if prompt is None else prompt
            said, layout = upstream_stages(
                directory, samples, TORCH_DTYPES[dtype], asked, max_tokens or MOST_TOKENS
            )
            about = {"layout": layout, "prompt": asked, "upstream": "generate"}
            return of_speech(said, samples, dtype, str(directory)), about
        refuse_prompt(directory, prompt, max_tokens)
        config = read_config(directory)
    except CheckpointError as error:
        raise errors.CheckpointError(str(error)) from error
    note(f"running the Python code of {directory}, if it has any, as --upstream says")
    model, inputs = _load(directory, samples, TORCH_DTYPES[dtype], config)
    taps = Taps(model, _MODULES)
    try:
        with torch.inference_mode():
            method = _run(model, inputs)
            recorded = _collect(taps, config, samples, dtype, directory)
    finally:
        taps.close()
    return recorded, {"layout": config.semantics.layout, "upstream": method}


def _load(
    directory: Path,
    samples: NDArray[Any],
    dtype: torch.dtype,
    config: ModelConfig,
) -> tuple[nn.Module, dict[str, Any]]:
    transformers = import_transformers()
    model = loaded(transformers, "AutoModel", directory, dtype=dtype, trust_remote_code=True).eval()
    problems = []
    loaders: list[Any] = [transformers.AutoFeatureExtractor, transformers.AutoProcessor]
    for loader in loaders:
        try:
            extract = loader.from_pretrained(str(directory), trust_remote_code=True)
            return model, _features(extract, samples, config, dtype)
        except Exception as error:
            problems.append(f"{loader.__name__}: {type(error).__name__}: {error}")
    raise errors.CheckpointError(
        f"{directory}: neither a feature extractor nor a processor takes the audio: "
        f"{'; '.join(problems)}"
    )


def _features(
    extract: Any, samples: NDArray[Any], config: ModelConfig, dtype: torch.dtype
) -> dict[str, Any]:
    """The extractor's tensors; it is asked for by whichever of the usual arguments it has."""
    wanted = {"return_tensors": "pt", "sampling_rate": config.front_end.sample_rate}
    known = inspect.signature(extract.__call__).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    options = {key: value for key, value in wanted.items() if anything or key in known}
    name = next((name for name in ("audio", "audios", "raw_speech") if name in known), None)
    waveform = torch.from_numpy(np.ascontiguousarray(samples))
    found = extract(**{name: waveform}, **options) if name else extract(waveform, **options)
    return {
        key: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in dict(found).items()
    }


def _run(model: nn.Module, inputs: dict[str, Any]) -> str:
    method = next(name for name in _METHODS if hasattr(model, name))
    try:
        getattr(model, method)(**inputs)
    except Exception as error:
        raise errors.CheckpointError(
            f"the upstream model's {method}({', '.join(inputs)}) failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    return method


def _collect(
    taps: Taps, config: ModelConfig, samples: NDArray[Any], dtype: str, directory: Path
) -> Recorded:
    encoder, rules = config.encoder, config.semantics
    states = [taps.seen(taps.outputs, "input", 0)]
    states += [taps.seen(taps.outputs, f"layer {n}", 0) for n in range(encoder.n_layers)]
    final = taps.seen(taps.inputs, "characters", -1)
    for k in range(1, encoder.n_layers):
        # What the next block reads has the feedback; the native port captures before it.
        before = encoder.capture_before_feedback and k == encoder.self_conditioning_layer
        if not before:
            states[k] = taps.seen(taps.inputs, f"layer {k}", 0)
    posterior = taps.seen(taps.outputs, "characters", 0).float().softmax(dim=-1)
    if len(taps.outputs["characters"]) == 1:
        # The head ran for the feedback only: its final logits are made with it here.
        last = encoder.n_layers
        if encoder.self_conditioning_layer == last:
            raise errors.CheckpointError("the upstream model's final state cannot be seen")
        final = states[last]
        character_logits = taps.modules["characters"](final)
    else:
        character_logits = taps.seen(taps.outputs, "characters", -1)
        states[encoder.n_layers] = final
    encoder_output = taps.seen(taps.inputs, "projector", -1)
    projected = taps.seen(taps.outputs, "projector", -1)
    text_ids = taps.seen(taps.inputs, "embedding", -1).reshape(-1)
    text_rows = as_rows(taps.seen(taps.outputs, "norm", -1))[-len(text_ids) :]
    weight: Any = taps.modules["embedding"].weight
    editing = F.linear(text_rows, weight)
    # What the first layer reads is multiplied already.
    rows = as_rows(taps.seen(taps.inputs, "editor", -1)) / config.editor.embedding_multiplier
    audio_tokens = rows[: len(rows) - len(text_ids)]
    tokenizer = load_tokenizer(directory)
    bpe_logits = taps.seen(taps.outputs, "bpe", -1)
    said = decoding.hypothesis_tokens(
        as_rows(bpe_logits).argmax(dim=-1).tolist(), rules.bpe_blank_id, rules.bpe_id_shift
    )
    if rules.retokenize:
        hypothesis, _ = decoding.retokenize(tokenizer, said)
    else:
        hypothesis = decoding.decode(tokenizer, said)
    outputs = {
        Names.MEL: taps.seen(taps.inputs, "input", 0),
        **{f"{Names.ENCODER_LAYER}{k}": states[k] for k in encoder.captured},
        Names.ENCODER_OUTPUT: encoder_output,
        Names.ENCODER_FINAL: final,
        Names.ENCODER_LOGITS: character_logits,
        Names.BPE_LOGITS: bpe_logits,
        Names.PROJECTOR_OUTPUT: projected,
        Names.AUDIO_EMBS: audio_tokens,
        Names.EDITING_LOGITS: editing,
    }
    said_last = decoding.transcript(tokenizer, editing.argmax(dim=-1).tolist(), rules.slot_id)
    arrays = {name: as_rows(tensor).float().numpy() for name, tensor in outputs.items()}
    arrays[Names.RAW_AUDIO] = samples.astype(np.float32)
    arrays[Names.BLANK_PROB] = as_rows(posterior)[:, 0].numpy()
    return Recorded(
        source=str(directory),
        architecture=ARCHITECTURE,
        arrays={name: np.ascontiguousarray(a) for name, a in arrays.items() if a.size},
        ids={Names.TEXT_IDS: text_ids.to(torch.int64).numpy()},
        texts={Names.CTC_TEXT: hypothesis, Names.FINAL_TEXT: said_last},
        precision=Precision(others=DTYPES[dtype]),
    )
