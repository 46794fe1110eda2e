"""The model as its authors run it: transformers with a checkpoint's own modeling code.

    AutoProcessor or AutoFeatureExtractor -> AutoModel(...).transcribe | generate | forward
                                               └ hooks on modules that the checkpoint's keys name

The hooks sit on modules, not on the model's outputs, because the names of modules are fixed by the
tensors of the checkpoint and the outputs' names are not. A module that is missing, or is never
called, is an error that names it. A module used outside its own `forward` cannot be seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
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
from granite_gguf.reference.recording import ARCHITECTURE, writes_tokens

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


class _Taps:
    """Remembers what goes into and comes out of modules, call by call."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = {name: _find(model, places) for name, places in _MODULES.items()}
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        watched = dict(self.modules)
        layers = watched.pop("layers")
        watched |= {f"layer {n}": layer for n, layer in layers.named_children()}
        self.handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in watched.items()
        ]

    def _hook(self, name: str) -> Any:
        def remember(
            _m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            given = _first_tensor([*args, *kwargs.values()])
            made = _first_tensor([out])
            if given is not None:
                self.inputs.setdefault(name, []).append(given.detach().clone())
            if made is not None:
                self.outputs.setdefault(name, []).append(made.detach().clone())

        return remember

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def seen(self, calls: dict[str, list[Tensor]], name: str, which: int) -> Tensor:
        """A tensor of the first (0) or last (-1) call, of the first utterance."""
        if name not in calls:
            raise errors.CheckpointError(
                f"the upstream model never called its module {name!r} ({_MODULES.get(name, name)}) "
                "as a module: this stage cannot be recorded; leave out --upstream"
            )
        return calls[name][which]


def record_upstream(
    directory: Path, samples: NDArray[Any], dtype: str, *, trust_code: bool
) -> tuple[Recorded, dict[str, str]]:
    """Every stage of 16 kHz mono samples (n) that the upstream code lets be seen.

    Args:
        directory: the checkpoint, with its modeling code or of a type transformers knows.
        samples: the recording.
        dtype: f32 or bf16.
        trust_code: run the Python code that lies in the checkpoint.

    Raises:
        granite_gguf.errors.CheckpointError: the model cannot be loaded or run, or a stage's
            module is missing or never called.
        granite_gguf.errors.MissingExtraError: transformers is not installed.
        granite_gguf.errors.InputError: the model writes token by token.
    """
    try:
        if writes_tokens(directory):
            raise errors.InputError(
                f"{directory}: --upstream records models that edit a hypothesis; leave it out: of "
                "the others this package computes what transformers' own classes do, as its tests "
                "show"
            )
        config = read_config(directory)
    except CheckpointError as error:
        raise errors.CheckpointError(str(error)) from error
    model, inputs = _load(directory, samples, TORCH_DTYPES[dtype], config, trust_code)
    taps = _Taps(model)
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
    trust_code: bool,
) -> tuple[nn.Module, dict[str, Any]]:
    try:
        import transformers  # noqa: PLC0415 - an extra of its own
    except ModuleNotFoundError as error:
        raise errors.MissingExtraError(
            f"{error.name} is not installed, and --upstream needs it: "
            "pip install 'granite-gguf[upstream]'"
        ) from error
    try:
        model = transformers.AutoModel.from_pretrained(
            str(directory), dtype=dtype, trust_remote_code=trust_code
        ).eval()
    # Code of the checkpoint may fail in any way; it is the checkpoint that cannot be used.
    except Exception as error:
        raise errors.CheckpointError(
            f"{directory}: transformers {transformers.__version__} cannot load it: "
            f"{type(error).__name__}: {error}"
        ) from error
    problems = []
    loaders: list[Any] = [transformers.AutoFeatureExtractor, transformers.AutoProcessor]
    for loader in loaders:
        try:
            extract = loader.from_pretrained(str(directory), trust_remote_code=trust_code)
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
    taps: _Taps, config: ModelConfig, samples: NDArray[Any], dtype: str, directory: Path
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
    text_rows = _rows(taps.seen(taps.outputs, "norm", -1))[-len(text_ids) :]
    weight: Any = taps.modules["embedding"].weight
    editing = F.linear(text_rows, weight)
    # What the first layer reads is multiplied already.
    rows = _rows(taps.seen(taps.inputs, "editor", -1)) / config.editor.embedding_multiplier
    audio_tokens = rows[: len(rows) - len(text_ids)]
    tokenizer = load_tokenizer(directory)
    bpe_logits = taps.seen(taps.outputs, "bpe", -1)
    said = decoding.hypothesis_tokens(
        _rows(bpe_logits).argmax(dim=-1).tolist(), rules.bpe_blank_id, rules.bpe_id_shift
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
    arrays = {name: _rows(tensor).float().numpy() for name, tensor in outputs.items()}
    arrays[Names.RAW_AUDIO] = samples.astype(np.float32)
    arrays[Names.BLANK_PROB] = _rows(posterior)[:, 0].numpy()
    return Recorded(
        source=str(directory),
        architecture=ARCHITECTURE,
        arrays={name: np.ascontiguousarray(a) for name, a in arrays.items() if a.size},
        ids={Names.TEXT_IDS: text_ids.to(torch.int64).numpy()},
        texts={Names.CTC_TEXT: hypothesis, Names.FINAL_TEXT: said_last},
        precision=Precision(others=DTYPES[dtype]),
    )


def _find(model: nn.Module, places: Iterable[str]) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for place in places:
        for name in (place, f"model.{place}"):
            if name in modules:
                return modules[name]
    raise errors.CheckpointError(
        f"the upstream model has no module {' or '.join(places)}: its stages cannot be recorded; "
        "leave out --upstream"
    )


def _first_tensor(values: Iterable[Any]) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (list, tuple)):
            found = _first_tensor(value)
            if found is not None:
                return found
        elif hasattr(value, "values") and callable(value.values):
            found = _first_tensor(value.values())
            if found is not None:
                return found
    return None


def _rows(tensor: Tensor) -> Tensor:
    """(1, rows, width) or (windows, rows, width) as (rows, width)."""
    return tensor.reshape(-1, tensor.shape[-1])
