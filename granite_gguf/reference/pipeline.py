"""Audio to text, with every stage on the way in numpy.

audio (n) -> mel -> encode -> project -> audio tokens -+
                       +-> hypothesis -> slots --------+-> edit -> text
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from granite_gguf.reference import decoding
from granite_gguf.reference.checkpoint import load_model, load_tokenizer
from granite_gguf.reference.config import ModelConfig
from granite_gguf.reference.encoder import Encoded
from granite_gguf.reference.frontend import log_mel
from granite_gguf.reference.layers import wide
from granite_gguf.reference.model import GraniteSpeechNar

Floats = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Stages:
    """One utterance, stage by stage. W = ceil(T / 4) windows, n text rows, V the vocabulary.

    Audio too short for a frame (under 320 samples, native: 257) gives arrays without rows and
    empty texts.
    """

    mel_spectrogram: Floats  # (T, 160)
    encoder_layers: dict[int, Floats]  # captured index -> (T, D); the final state by its number
    encoder_output: Floats  # (T, 4 D), the captured layers side by side
    encoder_final: Floats  # (T, D)
    encoder_logits: Floats  # (T, chars), the character head on the final state
    blank_prob: Floats  # (T,), from the softmax at the self-conditioning layer
    pooled: Floats  # (W, D)
    bpe_logits: Floats  # (W, V), nle: (W, V + 1)
    bpe_ids: Ids  # (W,), the raw arg-max
    hypothesis_ids: Ids  # tokens in the slots: for nle those of hypothesis_text
    hypothesis_text: str  # for nle normalised, and " " when nothing was recognised
    text_ids_with_slots: Ids  # (n,)
    projector_output: Floats  # (3 * ceil(T / 15), llm_dim)
    # The first T // 5 rows, divided by embedding_multiplier where the checkpoint scales projected
    # embeddings (all published ones do): what the editor concatenates before it multiplies.
    audio_embs_for_llm: Floats  # (T // 5, llm_dim)
    editing_logits: Floats  # (n, V), without the division by logits_scaling
    edited_ids: Ids  # (n,), arg-max per text row
    text: str

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by its stage name; captured layers as `encoder_layer_K`."""
        named: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "encoder_layers":
                named.update({f"encoder_layer_{index}": layer for index, layer in value.items()})
            elif isinstance(value, np.ndarray):
                named[field.name] = value
        return named


class Reference:
    """A checkpoint ready to run; all methods take and give numpy arrays of one utterance."""

    def __init__(self, model: GraniteSpeechNar, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.config: ModelConfig = model.config
        self.dtype = model.encoder.input_linear.weight.dtype

    @classmethod
    def from_checkpoint(
        cls, directory: str | Path, dtype: torch.dtype = torch.float32
    ) -> Reference:
        """Load a checkpoint directory of any layout; float64 tells noise from mistakes."""
        return cls(load_model(directory, dtype), load_tokenizer(directory))

    @torch.inference_mode()
    def mel(self, audio: NDArray[Any]) -> Floats:
        """16 kHz mono samples (n) in [-1, 1] -> stacked log-mel features (T, 160)."""
        if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating):
            raise ValueError(f"expected mono float samples, got {audio.dtype} of {audio.shape}")
        samples = torch.from_numpy(np.ascontiguousarray(audio))
        # The front end is never taken in half precision, whatever the model runs in.
        samples = samples.to(torch.promote_types(self.dtype, torch.float32))
        return _numpy(log_mel(samples, self.config.front_end))

    @torch.inference_mode()
    def encode(self, mel: NDArray[Any]) -> Encoded:
        """Features (T, 160), T > 0 -> the encoder's outputs as tensors (1, ...)."""
        encoded: Encoded = self.model.encoder(self._tensor(mel)[None])
        return encoded

    @torch.inference_mode()
    def project(self, encoder_output: NDArray[Any]) -> Floats:
        """Captured states (T, 4 D), T > 0 -> (3 * ceil(T / 15), llm_dim), not cut, not scaled."""
        return _numpy(self.model.projector(self._tensor(encoder_output)[None])[0])

    @torch.inference_mode()
    def audio_embs(self, projector_output: NDArray[Any], n_frames: int) -> Floats:
        """The projector's rows cut to T // 5 and divided, as `Stages.audio_embs_for_llm`."""
        projected = self._tensor(projector_output)[None]
        return _numpy(self.model.audio_tokens(projected, n_frames)[0])

    @torch.inference_mode()
    def edit(self, audio_embs: NDArray[Any], text_ids: NDArray[Any]) -> Floats:
        """Audio tokens (A, llm_dim), A >= 0, and text ids (n) -> logits (n, V), not divided."""
        ids = torch.from_numpy(np.asarray(text_ids, dtype=np.int64))
        return _numpy(self.model.editor(self._tensor(audio_embs)[None], ids[None])[0])

    def hypothesis(self, bpe_ids: NDArray[Any]) -> tuple[str, list[int]]:
        """Arg-max ids of the BPE head -> (hypothesis text, tokens for the slots)."""
        rules = self.config.semantics
        tokens = decoding.hypothesis_tokens(
            bpe_ids.tolist(), rules.bpe_blank_id, rules.bpe_id_shift
        )
        if rules.retokenize:
            return decoding.retokenize(self.tokenizer, tokens)
        return decoding.decode(self.tokenizer, tokens), tokens

    def run(self, audio: NDArray[Any]) -> Stages:
        """16 kHz mono samples (n) in [-1, 1] -> every stage up to the text."""
        mel = self.mel(audio)
        if len(mel) == 0:
            return self._empty(mel)
        rules = self.config.semantics
        encoded = self.encode(mel)
        bpe_logits = _numpy(encoded.bpe_logits[0])
        bpe_ids = bpe_logits.argmax(axis=-1)
        hypothesis_text, hypothesis_ids = self.hypothesis(bpe_ids)
        text_ids = np.array(
            decoding.insert_slots(hypothesis_ids, rules.slot_id, rules.min_edit_length), np.int64
        )
        encoder_output = _numpy(encoded.output[0])
        projected = self.project(encoder_output)
        audio_embs = self.audio_embs(projected, len(mel))
        editing_logits = self.edit(audio_embs, text_ids)
        edited_ids = editing_logits.argmax(axis=-1)
        captured = zip(self.config.encoder.captured, encoded.captured, strict=True)
        return Stages(
            mel_spectrogram=mel,
            encoder_layers={index: _numpy(layer[0]) for index, layer in captured},
            encoder_output=encoder_output,
            encoder_final=_numpy(encoded.final[0]),
            encoder_logits=_numpy(encoded.char_logits[0]),
            blank_prob=_numpy(encoded.blank_prob[0]),
            pooled=_numpy(encoded.pooled[0]),
            bpe_logits=bpe_logits,
            bpe_ids=bpe_ids,
            hypothesis_ids=np.array(hypothesis_ids, np.int64),
            hypothesis_text=hypothesis_text,
            text_ids_with_slots=text_ids,
            projector_output=projected,
            audio_embs_for_llm=audio_embs,
            editing_logits=editing_logits,
            edited_ids=edited_ids,
            text=decoding.transcript(self.tokenizer, edited_ids.tolist(), rules.slot_id),
        )

    def _empty(self, mel: Floats) -> Stages:
        """Stages of audio without a frame: the editor is not asked to invent a text."""
        encoder, editor = self.config.encoder, self.config.editor
        no_ids = np.zeros(0, np.int64)

        def rows(width: int) -> Floats:
            return np.zeros((0, width), mel.dtype)

        return Stages(
            mel_spectrogram=mel,
            encoder_layers={index: rows(encoder.d_model) for index in encoder.captured},
            encoder_output=rows(encoder.d_model * len(encoder.captured)),
            encoder_final=rows(encoder.d_model),
            encoder_logits=rows(encoder.char_vocab),
            blank_prob=np.zeros(0, mel.dtype),
            pooled=rows(encoder.d_model),
            bpe_logits=rows(encoder.bpe_vocab),
            bpe_ids=no_ids,
            hypothesis_ids=no_ids,
            hypothesis_text="",
            text_ids_with_slots=no_ids,
            projector_output=rows(editor.d_model),
            audio_embs_for_llm=rows(editor.d_model),
            editing_logits=rows(editor.vocab_size),
            edited_ids=no_ids,
            text="",
        )

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.dtype)


def _numpy(x: Tensor) -> Floats:
    """Out of torch, in at least float32 (numpy knows no bfloat16)."""
    array: Floats = wide(x).numpy()
    return array
