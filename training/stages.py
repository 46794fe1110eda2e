"""What each stage of the training computes.

encoder: features -> CTC of characters (self-conditioning layer and end) and of tokens (pooled)
editor:  frozen encoder -> its real hypothesis, or one with deliberate errors -> slots
         -> projector, editor -> CTC over the text rows; and CTC over the audio tokens, which
         teaches the projector the editor's embeddings
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from granite_gguf.reference import Encoded, GraniteSpeechNar
from granite_gguf.reference.decoding import collapse, decode, hypothesis_tokens, insert_slots
from training.augment import Strength, augmented
from training.corruption import ErrorRates, corrupted, edit_rows, editable
from training.dataset import Example, stacked
from training.losses import ctc
from training.scoring import word_error_rate

SCORED = 200  # development utterances


@dataclass(frozen=True)
class Loss:
    """What is minimised, and its parts for the log."""

    total: Tensor
    parts: dict[str, float]


class Stage(ABC):
    """One stage: which parameters it trains and how well they do."""

    strength = Strength()

    def __init__(
        self, model: GraniteSpeechNar, tokenizer: Tokenizer, device: torch.device, *, mixed: bool
    ) -> None:
        self.model, self.tokenizer, self.device, self.mixed = model, tokenizer, device, mixed
        self.rules = model.config.semantics

    @abstractmethod
    def parameters(self) -> Iterator[nn.Parameter]: ...

    @abstractmethod
    def begin(self) -> None:
        """Put every module into its mode."""

    @abstractmethod
    def loss(self, batch: list[Example], step: int) -> Loss: ...

    @abstractmethod
    def scores(self, examples: list[Example]) -> dict[str, float]:
        """Word error rates, without augmentation and one utterance at a time."""

    def precision(self) -> torch.autocast:
        """Products in bfloat16 where that is asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    def features(self, batch: list[Example], step: int) -> Tensor:
        """The batch's features (B, T, 160), as the step's random numbers vary them."""
        generator = torch.Generator().manual_seed(step)
        return augmented(stacked(batch), generator, self.strength).to(self.device)

    def hypotheses(self, encoded: Encoded) -> list[list[int]]:
        """The encoder's own tokens."""
        rules = self.rules
        rows = encoded.bpe_logits.argmax(dim=-1).tolist()
        return [hypothesis_tokens(row, rules.bpe_blank_id, rules.bpe_id_shift) for row in rows]


class EncoderStage(Stage):
    """All CTC heads of the encoder at once."""

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.model.encoder.parameters()

    def begin(self) -> None:
        self.model.train()

    def loss(self, batch: list[Example], step: int) -> Loss:
        features = self.features(batch, step)
        with self.precision(), outputs_of(self.model.encoder.out) as char_logits:
            encoded: Encoded = self.model.encoder(features)
        characters = [example.characters for example in batch]
        middle, final = (ctc(logits, characters, 0) for logits in char_logits)
        tokens = ctc(
            encoded.bpe_logits, [example.tokens for example in batch], self.rules.bpe_blank_id
        )
        return Loss(
            0.5 * middle + final + tokens,
            {"middle": middle.item(), "characters": final.item(), "tokens": tokens.item()},
        )

    @torch.inference_mode()
    def scores(self, examples: list[Example]) -> dict[str, float]:
        self.model.eval()
        pairs = []
        for example in examples[:SCORED]:
            encoded = self.model.encoder(stacked([example]).to(self.device))
            pairs.append((example.text, decode(self.tokenizer, self.hypotheses(encoded)[0])))
        self.model.train()
        return {"hypothesis": word_error_rate(pairs)}


class EditorStage(Stage):
    """Projector and editor, above a frozen encoder."""

    # Errors from none to so many that only listening helps: copying must not pay.
    deliberate = 0.7  # share of the hypotheses
    worst = ErrorRates(deletion=0.1, insertion=0.15, substitution=0.7)
    audio_weight = 0.3

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.projector.parameters()
        yield from self.model.editor.parameters()

    def begin(self) -> None:
        self.model.eval()

    def loss(self, batch: list[Example], step: int) -> Loss:
        features = self.features(batch, step)
        with torch.no_grad(), self.precision():
            encoded: Encoded = self.model.encoder(features)
        targets = [example.tokens for example in batch]
        rng = random.Random(step)
        spoken = [token for target in targets for token in target]
        hypotheses = [
            self.hypothesis(real, target, spoken, rng)
            for real, target in zip(self.hypotheses(encoded), targets, strict=True)
        ]
        minimum, slot = self.rules.min_edit_length, self.rules.slot_id
        rows = [edit_rows(hypothesis, minimum) for hypothesis in hypotheses]
        longest = max(rows)
        text_ids = torch.tensor([insert_slots(h, slot, longest) for h in hypotheses])
        lengths = torch.tensor(rows)
        with self.precision():
            projected = self.model.projector(encoded.output)
            audio = self.model.audio_tokens(projected, features.shape[1])
            editor = self.model.editor
            logits = editor(audio, text_ids.to(self.device), lengths.to(self.device))
            heard = editor.norm(audio) @ editor.embed_tokens.weight.T
        scale = self.rules.logits_divisor
        edited = ctc(logits / scale, targets, slot, lengths)
        listened = ctc(heard / scale, targets, slot)
        return Loss(
            edited + self.audio_weight * listened,
            {"edited": edited.item(), "audio": listened.item()},
        )

    def hypothesis(
        self, real: list[int], target: list[int], wrong: list[int], rng: random.Random
    ) -> list[int]:
        """The encoder's hypothesis or a deliberately wrong one, with room for the target."""
        tokens = real
        if rng.random() < self.deliberate:
            tokens = corrupted(real, self.worst.times(rng.random()), wrong, rng)
        if not editable(tokens, target, self.rules.min_edit_length):
            tokens = real
        if not editable(tokens, target, self.rules.min_edit_length):
            tokens = target
        return tokens

    @torch.inference_mode()
    def scores(self, examples: list[Example]) -> dict[str, float]:
        first, final = [], []
        rules, model = self.rules, self.model
        for example in examples[:SCORED]:
            features = stacked([example]).to(self.device)
            encoded = model.encoder(features)
            tokens = self.hypotheses(encoded)[0]
            ids = insert_slots(tokens, rules.slot_id, rules.min_edit_length)
            audio = model.audio_tokens(model.projector(encoded.output), features.shape[1])
            logits = model.editor(audio, torch.tensor([ids], device=self.device))
            edited = collapse(logits[0].argmax(dim=-1).tolist(), rules.slot_id)
            first.append((example.text, decode(self.tokenizer, tokens)))
            final.append((example.text, decode(self.tokenizer, edited)))
        return {"hypothesis": word_error_rate(first), "edited": word_error_rate(final)}


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Every output that the module gives inside the block, in order."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()
