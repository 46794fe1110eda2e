"""Audio to text by the autoregressive model, with every stage on the way in numpy.

audio (n) -> mel -> encode -> project -> audio rows -+-> logits after the prompt
                                    prompt ids ------+-> text, token by token

The weights of a single stage are in memory at once: the full-size language model has 7.4 GB in
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from granite_gguf.reference import decoding
from granite_gguf.reference.checkpoint import load_tokenizer
from granite_gguf.reference.encoder import Heard
from granite_gguf.reference.frontend import log_mel
from granite_gguf.reference.layers import wide
from granite_gguf.reference.speech.adapter import read_adapter
from granite_gguf.reference.speech.layouts import read_config
from granite_gguf.reference.speech.model import GraniteSpeech, checkpoint_key
from granite_gguf.reference.speech.prompt import INSTRUCTION, prompt_ids
from granite_gguf.reference.weights import Change, check, filled, tensor_places, unchanged

Floats = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]

MOST_TOKENS = 200
RECORDED_STEPS = 32  # whose logits are kept: 13 MB of the released vocabulary


@dataclass(frozen=True)
class SpeechStages:
    """One utterance, stage by stage; A = 3 * ceil(T / 15) audio rows, V the vocabulary.

    Audio too short for a frame (under 257 samples) gives arrays without rows and an empty text.
    """

    mel_spectrogram: Floats  # (T, 160)
    encoder_layers: dict[int, Floats]  # 0 the embedded input, k the output of block k: (T, D)
    encoder_output: Floats  # (T, captures * D): captured layers, then the final state
    encoder_logits: Floats  # (T, chars), the character head on the final state
    projector_output: Floats  # (A, llm_dim), before the embedding multiplier
    prompt_ids: Ids  # (P,), the audio token once for each audio row
    prefill_logits: Floats  # (1, V), of the last prompt row, divided by logits_scaling
    step_logits: Floats  # (S, V): what chose the first S generated ids, in one causal pass
    generated_ids: Ids  # (G,), greedy; with the end of the text, where it came to one
    text: str


class SpeechReference:
    """A checkpoint ready to run; all methods take and give numpy arrays of one utterance."""

    def __init__(
        self,
        directory: str | Path,
        dtype: torch.dtype = torch.float32,
        progress: Callable[[str], None] = lambda _stage: None,
    ) -> None:
        """`progress` is told of each stage before its weights are read."""
        self.directory = Path(directory)
        self.dtype = dtype
        self.progress = progress
        self.config = read_config(self.directory)
        with torch.device("meta"):
            self.model = GraniteSpeech(self.config).eval()
        self.tokenizer = load_tokenizer(self.directory)
        self.places = tensor_places(self.directory)
        state = self.model.state_dict()
        wanted = {checkpoint_key(name): tensor.shape for name, tensor in state.items()}
        check(wanted, self.places, f"{self.directory} ({self.config.layout} layout)")
        self.change: Change = unchanged
        if self.config.layout == "lora":
            self.change = read_adapter(self.directory, set(wanted), dtype)

    @torch.inference_mode()
    def mel(self, audio: NDArray[Any]) -> Floats:
        """16 kHz mono samples (n) in [-1, 1] -> stacked log-mel features (T, 160)."""
        samples = torch.from_numpy(np.ascontiguousarray(audio))
        # The front end is never taken in half precision, whatever the model runs in.
        samples = samples.to(torch.promote_types(self.dtype, torch.float32))
        return _numpy(log_mel(samples, self.config.front_end))

    @torch.inference_mode()
    def encode(self, mel: NDArray[Any]) -> Heard:
        """Features (T, 160), T > 0 -> the encoder's states as tensors (1, ...)."""
        with self._loaded("encoder"):
            return self.model.encoder.hear(self._tensor(mel)[None])

    @torch.inference_mode()
    def encoder_output(self, heard: Heard) -> Floats:
        """The encoder's states -> what the projector reads (T, captures * D)."""
        return _numpy(self.model.encoder_output(heard.states)[0])

    @torch.inference_mode()
    def project(self, encoder_output: NDArray[Any]) -> Floats:
        """What the encoder gives (T, captures * D), T > 0 -> audio rows (A, llm_dim)."""
        with self._loaded("projector"):
            return _numpy(self.model.projector(self._tensor(encoder_output)[None])[0])

    def prompt(self, instruction: str, audio_rows: int) -> Ids:
        """Ids (P) of a prompt with so many audio rows."""
        ids = prompt_ids(self.directory, self.tokenizer, self.config, instruction, audio_rows)
        return np.array(ids, np.int64)

    @torch.inference_mode()
    def write(self, prompt: Ids, audio: NDArray[Any], most: int) -> tuple[Ids, Floats]:
        """Prompt ids (P) and audio rows (A, llm_dim) -> generated ids (G), their logits (S, V).

        The logits are of one causal pass over the prompt and all but the last of the ids.
        """
        with self._loaded("language"):
            language = self.model.language
            rows = language.rows(torch.from_numpy(prompt), self._tensor(audio))
            said = language.generate(rows, most)
            steps = said[: RECORDED_STEPS + 1]
            following = language.embed_tokens(torch.tensor(steps[:-1], dtype=torch.int64))
            logits = language(torch.cat([rows, following]), len(steps))
        return np.array(said, np.int64), _numpy(logits[:RECORDED_STEPS])

    def run(
        self, audio: NDArray[Any], instruction: str = INSTRUCTION, most: int = MOST_TOKENS
    ) -> SpeechStages:
        """16 kHz mono samples (n) in [-1, 1], what is asked and the most tokens -> every stage."""
        mel = self.mel(audio)
        if not len(mel):
            return self._empty(mel)
        heard = self.encode(mel)
        output = self.encoder_output(heard)
        projected = self.project(output)
        prompt = self.prompt(instruction, len(projected))
        said, logits = self.write(prompt, projected, most)
        text = [int(token) for token in said if token != self.config.language.eos]
        return SpeechStages(
            mel_spectrogram=mel,
            encoder_layers={k: _numpy(state[0]) for k, state in enumerate(heard.states)},
            encoder_output=output,
            encoder_logits=_numpy(heard.char_logits[0]),
            projector_output=projected,
            prompt_ids=prompt,
            prefill_logits=logits[:1],
            step_logits=logits,
            generated_ids=said,
            text=decoding.decode(self.tokenizer, text),
        )

    def _empty(self, mel: Floats) -> SpeechStages:
        encoder, language = self.config.encoder, self.config.language
        no_ids = np.zeros(0, np.int64)

        def rows(width: int) -> Floats:
            return np.zeros((0, width), mel.dtype)

        return SpeechStages(
            mel_spectrogram=mel,
            encoder_layers={k: rows(encoder.d_model) for k in range(encoder.n_layers + 1)},
            encoder_output=rows(self.config.projector.encoder_width),
            encoder_logits=rows(encoder.char_vocab),
            projector_output=rows(language.d_model),
            prompt_ids=no_ids,
            prefill_logits=rows(language.vocab_size),
            step_logits=rows(language.vocab_size),
            generated_ids=no_ids,
            text="",
        )

    def _loaded(self, stage: str) -> AbstractContextManager[None]:
        self.progress(stage)
        module: nn.Module = getattr(self.model, stage)
        keys = {name: checkpoint_key(f"{stage}.{name}") for name in module.state_dict()}
        return filled(module, keys, self.places, self.dtype, self.change)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.dtype)


def _numpy(x: Tensor) -> Floats:
    """Out of torch, in at least float32 (numpy knows no bfloat16)."""
    array: Floats = wide(x).numpy()
    return array
