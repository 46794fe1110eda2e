"""Tiny autoregressive models, and what transformers computes with them.

    python -m tests.speech    write tests/expected/speech/LAYOUT.npz

A file holds what transformers' own classes make in float32 of the same features, of the checkpoint
``make_speech_checkpoint(layout=LAYOUT, size="tiny", seed=0, dtype="f32")``: some rows of the
encoder's and the projector's output, what ``generate`` says, and logits after the prompt and after
some of ``FORCED``, by the number of samples. Needs the reference extra.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.architectures import architecture_of, open_model_file
from granite_gguf.ggml import F32, GGMLType, Runtime
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.sound.features import log_mel, mel_filters
from granite_gguf.speech.spec import FrontEnd
from granite_gguf.speech.stages import SpeechStages
from granite_gguf.tokenizer import load_tokenizer
from tests.signals import synthetic_audio
from tests.support.checkpoint.speech import LORA_ALPHA, SPEECH_SIZES
from tests.support.make_speech_checkpoint import ADAPTER, make_speech_checkpoint

EXPECTED = Path(__file__).parent / "expected" / "speech"
LAYOUTS = ("base", "plus", "lora")
AUDIO_SEED = 2
# One frame; an odd mel frame left out; a partial window; an attention block and some more.
SAMPLES = (320, 5600, 16_000, 70_007)
SAID = 24  # tokens
# A model whose head is its embedding says one token over and over; these are other ones.
FORCED = (71, 5, 200, 199, 5, 42, 301)
FRAMES = (0, 1, 15, 199, 200, -1)  # rows that are kept of what has so many
ROWS = (0, 2, 3, -1)
SIZE = SPEECH_SIZES["tiny"]
PUNCTUATED = "transcribe the speech with proper punctuation and capitalization."
"""What the card of 4.1-2b asks."""

# As the chat templates write them, by hand; the audio stands between.
AROUND = {
    "base": ("USER: ", "can you transcribe the speech into a written format?\n ASSISTANT:"),
    "plus": (
        "<|start_of_role|>system<|end_of_role|>Be good<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>",
        " say it<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    ),
    "lora": (
        "<|start_of_role|>user<|end_of_role|>",
        "say it<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    ),
}


@contextmanager
def stages_of(
    path: Path, kernels: str = "auto", cache: GGMLType = F32, precision: str = "exact"
) -> Iterator[SpeechStages]:
    file = open_model_file(path)
    with ExitStack() as stack:
        runtime = stack.enter_context(Runtime("cpu", 1))
        derived = architecture_of(file).derived
        weights = ModelWeights(file, runtime, Precision(precision), derived, kernels=kernels)
        stack.callback(weights.close)
        model = SpeechStages(file, load_tokenizer(file), weights, runtime, cache)
        stack.callback(model.close)
        yield model


def features(n_samples: int) -> npt.NDArray[np.float32]:
    """What the model is given, ``(T, 160)``."""
    return log_mel(FrontEnd(), mel_filters(FrontEnd()), synthetic_audio(n_samples, AUDIO_SEED))


def some(array: npt.NDArray[Any], wanted: tuple[int, ...]) -> npt.NDArray[Any]:
    """Those of some rows that there are."""
    return array[[row for row in wanted if row < len(array)]]


def make(directory: Path, layout: str) -> Path:
    """The checkpoint, with a BPE head where releases have it."""
    make_speech_checkpoint(
        directory, layout=layout, size="tiny", seed=0, dtype="f32", draft_head=layout == "base"
    )
    return directory


def torch_model(directory: Path, layout: str) -> Any:
    """Transformers' model, an adapter added to its matrices."""
    import torch
    import transformers
    from safetensors.torch import load_file

    kind = "Plus" if layout == "plus" else ""
    made = getattr(transformers, f"GraniteSpeech{kind}ForConditionalGeneration")
    model = made.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    if layout == "lora":
        adapter = load_file(directory / ADAPTER)
        for n, layer in enumerate(model.model.language_model.layers):
            for name in ("q_proj", "v_proj"):
                at = f"base_model.model.language_model.model.layers.{n}.self_attn.{name}"
                a, b = (adapter[f"{at}.lora_{side}.weight"] for side in "AB")
                weight = getattr(layer.self_attn, name).weight
                weight.data += (LORA_ALPHA / SIZE.rank) * (b @ a)
    return model


def cases(directory: Path, layout: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """What is stored of a layout."""
    import torch
    from tokenizers import Tokenizer

    model = torch_model(directory, layout)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    before, behind = AROUND[layout]
    for n_samples in SAMPLES:
        mel = torch.from_numpy(features(n_samples))[None]
        with torch.no_grad():
            audio = model.get_audio_features(mel, return_dict=True)
        rows = audio.pooler_output.shape[1]
        ids = tokenizer.encode(before + rows * "<|audio|>" + behind, add_special_tokens=False).ids
        prompt = torch.tensor([ids])
        with torch.no_grad():
            said = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), input_features=mel,
                do_sample=False, num_beams=1, max_new_tokens=SAID, eos_token_id=None,
                pad_token_id=SIZE.vocabulary.pad_id,
            )[0, len(ids) :]  # fmt: skip
            forced = torch.tensor([[*ids, *FORCED]])
            logits = model(input_ids=forced, input_features=mel).logits[0, len(ids) - 1 :]
        yield f"{n_samples}_encoder", some(audio.last_hidden_state[0].numpy(), FRAMES)
        yield f"{n_samples}_projector", some(audio.pooler_output[0].numpy(), ROWS)
        yield f"{n_samples}_rows", np.array(rows)
        yield f"{n_samples}_prompt", np.array(len(ids))
        yield f"{n_samples}_said", said.numpy()
        yield f"{n_samples}_logits", some(logits.numpy(), ROWS)


if __name__ == "__main__":
    EXPECTED.mkdir(exist_ok=True)
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as scratch:
            stored = dict(cases(make(Path(scratch) / layout, layout), layout))
        np.savez_compressed(EXPECTED / f"{layout}.npz", allow_pickle=False, **stored)
        print(layout, {k: v.tolist() for k, v in stored.items() if k.endswith("_said")})
