"""The autoregressive model as transformers' own classes run it, seen through hooks.

audio (n) + chat template -> AutoProcessor -> AutoModelForSpeechSeq2Seq.generate, greedy
                                                 └ hooks -> every stage

Nothing of this package's own PyTorch computes here: features, prompt ids and tokens are upstream's.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from granite_gguf import errors
from granite_gguf.reference import decoding
from granite_gguf.reference.checkpoint import load_tokenizer
from granite_gguf.reference.sections import read_json
from granite_gguf.reference.speech.adapter import read_adapter
from granite_gguf.reference.speech.config import SpeechConfig, SpeechLayout
from granite_gguf.reference.speech.layouts import read_config
from granite_gguf.reference.speech.pipeline import RECORDED_STEPS, Floats, SpeechStages
from granite_gguf.reference.speech.prompt import messages
from granite_gguf.reference.taps import Taps, as_rows, import_transformers, loaded

# Where transformers 4 and 5 keep a module, first match first.
_MODULES = {
    "input": ("encoder.input_linear",),
    "layers": ("encoder.layers",),
    "characters": ("encoder.out",),
    "projector": ("projector",),
    "head": ("lm_head", "language_model.lm_head"),
}


def upstream_stages(
    directory: Path, samples: NDArray[Any], dtype: torch.dtype, instruction: str, most: int
) -> tuple[SpeechStages, SpeechLayout]:
    """Every stage of 16 kHz mono samples (n), and the checkpoint's layout.

    Args:
        directory: the checkpoint.
        samples: the recording, at least a frame of it.
        dtype: what to compute in.
        instruction: what the model is asked.
        most: the most tokens.

    Raises:
        granite_gguf.reference.config.CheckpointError: its configuration cannot be used.
        granite_gguf.errors.CheckpointError: transformers cannot load or run it.
        granite_gguf.errors.MissingExtraError: a library is not installed.
    """
    config = read_config(directory)
    transformers = import_transformers()
    _need_torchaudio()
    processor = _processor(transformers, directory)
    model = loaded(transformers, "AutoModelForSpeechSeq2Seq", directory, dtype=dtype).eval()
    if config.layout == "lora" and find_spec("peft") is None:
        _fold_adapter(model, directory, dtype)
    taps = Taps(model, _MODULES)
    try:
        with torch.inference_mode():
            text = processor.tokenizer.apply_chat_template(
                messages(config.layout, instruction), tokenize=False, add_generation_prompt=True
            )
            waveform = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None]
            inputs = processor(text, waveform, return_tensors="pt")
            written = model.generate(**inputs, max_new_tokens=most, do_sample=False, num_beams=1)
            prompt = inputs["input_ids"][0]
            return _collect(taps, config, directory, prompt, written[0, len(prompt) :])
    except errors.GraniteError:
        raise
    except Exception as error:
        raise errors.CheckpointError(
            f"{directory}: transformers {transformers.__version__} cannot run it: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        taps.close()


def _processor(transformers: Any, directory: Path) -> Any:
    """What makes a model's inputs; a feature extractor that the checkpoint lacks has defaults."""
    path = directory / "processor_config.json"
    lacking = not (directory / "preprocessor_config.json").is_file()
    if lacking and not (path.is_file() and "audio_processor" in read_json(path)):
        return transformers.GraniteSpeechProcessor(
            transformers.GraniteSpeechFeatureExtractor(),
            loaded(transformers, "AutoTokenizer", directory),
        )
    return loaded(transformers, "AutoProcessor", directory)


def _need_torchaudio() -> None:
    """transformers' feature extractor computes by it, and pip knows not which fits PyTorch."""
    fitting = f"install the release of torchaudio that fits PyTorch {torch.__version__}"
    try:
        import_module("torchaudio")
    except ModuleNotFoundError as error:
        raise errors.MissingExtraError(
            f"{error.name} is not installed, and --upstream needs it for this model: {fitting}"
        ) from error
    except (ImportError, OSError) as error:  # its compiled part is of another PyTorch
        raise errors.MissingExtraError(
            f"torchaudio cannot be loaded ({errors.brief(str(error))}), and --upstream needs it "
            f"for this model: {fitting}"
        ) from error


def _fold_adapter(model: nn.Module, directory: Path, dtype: torch.dtype) -> None:
    """Add the adapter to its matrices, which transformers leaves out where peft is missing."""
    language: nn.Module = model.get_submodule("model.language_model")
    keys = {f"language_model.model.{name}": p for name, p in language.named_parameters()}
    change = read_adapter(directory, set(keys), dtype)
    for key, parameter in keys.items():
        parameter.data = change(key, parameter.data)


def _collect(
    taps: Taps, config: SpeechConfig, directory: Path, prompt: Tensor, written: Tensor
) -> tuple[SpeechStages, SpeechLayout]:
    def out(name: str) -> Tensor:
        return taps.seen(taps.outputs, name, 0)

    count = config.encoder.n_layers
    # What a block reads has the feedback in it; what the one before it gives may not.
    states = [taps.seen(taps.inputs, f"layer {n}", 0) for n in range(count)]
    states.append(out(f"layer {count - 1}"))
    characters: nn.Module = taps.modules["characters"]
    steps = [as_rows(step)[-1:] for step in taps.outputs["head"][:RECORDED_STEPS]]
    # Before the division, which GraniteForCausalLM does and transformers 5 leaves out here.
    logits = _numpy(torch.cat(steps).float() / config.language.logits_scaling)
    ids = written.numpy().astype(np.int64)
    eos = config.language.eos
    return SpeechStages(
        mel_spectrogram=_numpy(taps.seen(taps.inputs, "input", 0)),
        encoder_layers={k: _numpy(state) for k, state in enumerate(states)},
        encoder_output=_numpy(taps.seen(taps.inputs, "projector", 0)),
        encoder_logits=_numpy(characters(states[-1])),
        projector_output=_numpy(out("projector")),
        prompt_ids=prompt.numpy().astype(np.int64),
        prefill_logits=logits[:1],
        step_logits=logits,
        generated_ids=ids,
        text=decoding.decode(load_tokenizer(directory), [int(i) for i in ids if i != eos]),
    ), config.layout


def _numpy(tensor: Tensor) -> Floats:
    """(1, rows, width) or (windows, rows, width) as float32 (rows, width)."""
    array: Floats = as_rows(tensor).float().numpy()
    return array
