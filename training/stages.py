"""What each stage of the training computes.

encoder: features -> CTC of characters (self-conditioning layer and end) and of tokens (pooled)
editor:  frozen encoder -> its real hypothesis, or one with deliberate errors -> slots
         -> projector, editor -> CTC over the text rows, and what each row should say by itself;
         and CTC over the audio tokens, which teaches the projector the editor's embeddings
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference import Encoded, GraniteSpeechNar
from granite_gguf.reference.decoding import collapse, decode, hypothesis_tokens, insert_slots
from training.augment import Strength, augmented
from training.corruption import UNKNOWN, ErrorRates, corrupted, edit_rows, editable, row_labels
from training.dataset import Example, stacked
from training.losses import ctc
from training.passes import LENGTHS, SECOND
from training.scoring import word_error_rate

Result = TypeVar("Result")


@dataclass(frozen=True)
class Loss:
    """What is minimised, and its parts for the log."""

    total: Tensor
    parts: dict[str, float]


class Stage(ABC):
    """One stage: which parameters it trains and how well they do."""

    strength = Strength()
    model: nn.Module

    def __init__(self, tokenizer: Tokenizer, device: torch.device, *, mixed: bool) -> None:
        self.tokenizer, self.device, self.mixed = tokenizer, device, mixed

    @abstractmethod
    def parameters(self) -> Iterator[nn.Parameter]: ...

    @abstractmethod
    def begin(self) -> None:
        """Put every module into its mode."""

    @abstractmethod
    def loss(self, batch: list[Example], step: int) -> Loss: ...

    @abstractmethod
    def scores(self, examples: list[Example]) -> dict[str, float]:
        """Word error rates, without augmentation and one pass at a time."""

    def precision(self) -> torch.autocast:
        """Products in bfloat16 where that is asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    def features(self, batch: list[Example], step: int) -> Tensor:
        """The batch's features (B, T, 160), as the step's random numbers vary them."""
        generator = torch.Generator(self.device).manual_seed(step)
        return augmented(stacked(batch).to(self.device), generator, self.strength)


class ListeningStage(Stage, Generic[Result]):
    """One that trains what stands behind a frozen encoder."""

    # Harder than what the encoder was trained on: it must be wrong as often as with new voices.
    strength = Strength(warp=0.2, tilt=0.8, noise_share=0.7, noise=(0.4, 3.0), time_masks=3)

    @abstractmethod
    def hear(self, features: Tensor) -> Result:
        """What the encoder makes of features (B, T, 160)."""

    def begin(self) -> None:
        self.model.eval()

    def listen(self, batch: list[Example], step: int) -> Result:
        """The encoder's results."""
        with torch.no_grad(), self.precision():
            return self.hear(self.features(batch, step))


class NarStage(Stage):
    """One of the model that edits."""

    model: GraniteSpeechNar

    def __init__(
        self, model: GraniteSpeechNar, tokenizer: Tokenizer, device: torch.device, *, mixed: bool
    ) -> None:
        super().__init__(tokenizer, device, mixed=mixed)
        self.model, self.rules = model, model.config.semantics

    def hypothesis(self, logits: Tensor) -> list[int]:
        """The tokens that the rows of the BPE head say (rows, vocabulary)."""
        rows = logits.argmax(dim=-1).tolist()
        return hypothesis_tokens(rows, self.rules.bpe_blank_id, self.rules.bpe_id_shift)

    def scores(self, examples: list[Example]) -> dict[str, float]:
        out: dict[str, float] = {}
        for least, most in LENGTHS:
            inside = [e for e in examples if least * SECOND <= e.frames <= most * SECOND]
            for name, rate in self.rates(inside).items():
                out[f"{least}-{most} s {name}"] = rate
        return out

    @abstractmethod
    def rates(self, examples: list[Example]) -> dict[str, float]:
        """Word error rates of passes of about one length."""


class EncoderStage(NarStage):
    """All CTC heads of the encoder at once."""

    strength = Strength(warp=0.15, noise_share=0.6)

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
        known = [n for n, example in enumerate(batch) if example.tokens]
        tokens = final.new_zeros(())
        if known:
            targets = [batch[n].tokens for n in known]
            tokens = ctc(encoded.bpe_logits[known], targets, self.rules.bpe_blank_id)
        return Loss(
            0.5 * middle + final + len(known) / len(batch) * tokens,
            {"middle": middle.item(), "characters": final.item(), "tokens": tokens.item()},
        )

    @torch.inference_mode()
    def rates(self, examples: list[Example]) -> dict[str, float]:
        self.model.eval()
        pairs = []
        for example in examples:
            encoded = self.model.encoder(stacked([example]).to(self.device))
            pairs.append(
                (example.text, decode(self.tokenizer, self.hypothesis(encoded.bpe_logits[0])))
            )
        self.model.train()
        return {"hypothesis": word_error_rate(pairs)}


@dataclass(frozen=True)
class Heard:
    """What the frozen encoder makes of a batch."""

    output: Tensor  # (B, T, layers * D)
    bpe_logits: Tensor  # (B, T / pooling window, vocabulary), without errors but the encoder's own


class EditorStage(NarStage, ListeningStage[Heard]):
    """Projector and editor, above a frozen encoder."""

    # Other errors than the encoder's favourite ones, so that copying does not pay.
    doubtful = 0.4  # share of the hypotheses drawn from the encoder's own probabilities
    hottest = 1.3  # temperature, at most
    deliberate = 0.25  # share of the hypotheses with random errors
    worst = ErrorRates(deletion=0.1, insertion=0.1, substitution=0.5)
    audio_weight = 1.0
    label_weight = 2.0  # there are about two rows to a token

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.projector.parameters()
        yield from self.model.editor.parameters()

    def hear(self, features: Tensor) -> Heard:
        encoded: Encoded = self.model.encoder(features)
        return Heard(encoded.output.to(torch.bfloat16), encoded.bpe_logits.float())

    def loss(self, batch: list[Example], step: int) -> Loss:
        heard = self.listen(batch, step)
        targets = [example.tokens for example in batch]
        hypotheses = self.varied(heard.bpe_logits, targets, step)
        minimum, slot = self.rules.min_edit_length, self.rules.slot_id
        rows = [edit_rows(hypothesis, minimum) for hypothesis in hypotheses]
        longest, lengths = max(rows), torch.tensor(rows)
        text_ids = torch.tensor([insert_slots(h, slot, longest) for h in hypotheses])
        labels = torch.full_like(text_ids, UNKNOWN)
        for row, hypothesis, target, n in zip(labels, hypotheses, targets, rows, strict=True):
            row[:n] = torch.tensor(row_labels(hypothesis, target, slot, n))
        editor = self.model.editor
        with self.precision():
            projected = self.model.projector(heard.output.to(editor.embed_tokens.weight.dtype))
            audio = self.model.audio_tokens(projected, heard.output.shape[1])
            logits = editor(audio, text_ids.to(self.device), lengths.to(self.device))
            listened = editor.norm(audio) @ editor.embed_tokens.weight.T
        scale = self.rules.logits_divisor
        edited = ctc(logits / scale, targets, slot, lengths)
        labelled = F.cross_entropy(
            (logits.float() / scale).flatten(0, 1),
            labels.flatten().to(self.device),
            ignore_index=UNKNOWN,
        )
        tokens = ctc(listened / scale, targets, slot)
        return Loss(
            edited + self.label_weight * labelled + self.audio_weight * tokens,
            {"edited": edited.item(), "labels": labelled.item(), "audio": tokens.item()},
        )

    def varied(self, logits: Tensor, targets: list[list[int]], step: int) -> list[list[int]]:
        """A hypothesis for each target, with the errors that the step's random numbers choose."""
        rng = random.Random(step)
        generator = torch.Generator().manual_seed(step)
        spoken = [token for target in targets for token in target]
        minimum = self.rules.min_edit_length
        out = []
        for row, target in zip(logits.cpu(), targets, strict=True):
            real, kind = self.hypothesis(row), rng.random()
            tokens = real
            if kind < self.doubtful:
                noise = -torch.log(-torch.log(torch.rand(row.shape, generator=generator)))
                tokens = self.hypothesis(row + self.hottest * rng.random() * noise)
            elif kind < self.doubtful + self.deliberate:
                tokens = corrupted(real, self.worst.times(rng.random() ** 2), spoken, rng)
            choices = (tokens, real, target)
            out.append(next(c for c in choices if editable(c, target, minimum)))
        return out

    def rates(self, examples: list[Example]) -> dict[str, float]:
        texts = [self.texts(example) for example in examples]
        said = [example.text for example in examples]
        return {
            name: word_error_rate(zip(said, column, strict=True))
            for name, column in zip(("hypothesis", "edited"), zip(*texts, strict=True), strict=True)
        }

    @torch.inference_mode()
    def texts(self, example: Example) -> tuple[str, str]:
        """What the encoder and what the editor writes."""
        rules, model = self.rules, self.model
        features = stacked([example]).to(self.device)
        encoded = model.encoder(features)
        tokens = self.hypothesis(encoded.bpe_logits[0])
        ids = insert_slots(tokens, rules.slot_id, rules.min_edit_length)
        audio = model.audio_tokens(model.projector(encoded.output), features.shape[1])
        logits = model.editor(audio, torch.tensor([ids], device=self.device))
        edited = collapse(logits[0].argmax(dim=-1).tolist(), rules.slot_id)
        return decode(self.tokenizer, tokens), decode(self.tokenizer, edited)


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Every output that the module gives inside the block, in order."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()
