"""What the stage of the autoregressive miniature computes.

language: frozen encoder -> projector -> audio rows in a prompt -> several texts, each token from
          those before; and CTC over the audio rows, which teaches the projector the words

    row      USER: audio audio ... | instruction ASSISTANT: text | instruction ASSISTANT: text
    sees     all before            | the first part, and what is before in its own
    position 0 1 2 ...           n | n + 1 ...                   | n + 1 ...

So the first part, most of the rows, is computed once for all that is asked about an utterance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference.decoding import decode
from granite_gguf.reference.granite import rope_angles
from granite_gguf.reference.speech.model import GraniteSpeech
from training.base import around
from training.corruption import UNKNOWN
from training.dataset import Example, stacked
from training.forms import Forms, Task
from training.losses import ctc
from training.scoring import word_error_rate
from training.stages import ListeningStage, Loss

SCORED = 15  # development passes, of all lengths
MOST_TOKENS = 160

SHARED, NOWHERE = 0, -1  # parts: the one that all see, and rows that fill up a batch

# How often each of `Forms.fixed` is asked for in a step, and keywords, twice where they matter.
SHARES = (0.75, 0.6, 0.5, 0.5)
KEYWORDS_SHARE = 0.4


@dataclass(frozen=True)
class Packed:
    """Rows of a batch of utterances (B, N) with all that is asked about each."""

    ids: Tensor
    positions: Tensor
    parts: Tensor  # `SHARED`, 1, 2 ... for each text, `NOWHERE`
    labels: Tensor  # the next token where that is one of a text, else `UNKNOWN`


class Prompts:
    """Ids of a checkpoint's prompts and texts."""

    def __init__(self, directory: Path, tokenizer: Tokenizer, audio: int, eos: int) -> None:
        self.tokenizer, self.audio, self.eos = tokenizer, audio, eos
        self._before, self._behind = around(directory)
        self._encode: Callable[[str], list[int]] = cache(self._ids)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def around(self, instruction: str) -> tuple[list[int], list[int]]:
        """Ids before the audio and behind it."""
        return self._encode(self._before), self._encode(instruction + self._behind)

    def asked(self, instruction: str, audio_rows: int) -> Tensor:
        """Ids (P) of a whole prompt."""
        before, behind = self.around(instruction)
        return torch.tensor(before + [self.audio] * audio_rows + behind)

    def packed(self, asked: list[list[Task]], audio_rows: int) -> Packed:
        """The rows of utterances of so many audio rows each, and the tasks of each."""
        utterances = [self._utterance(tasks, audio_rows) for tasks in asked]
        fill = (self.eos, 0, NOWHERE, UNKNOWN)
        return Packed(
            *(
                nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=value)
                for column, value in zip(zip(*utterances, strict=True), fill, strict=True)
            )
        )

    def _utterance(self, tasks: list[Task], audio_rows: int) -> tuple[Tensor, ...]:
        before, _ = self.around(tasks[0].instruction)
        ids = before + [self.audio] * audio_rows
        start = len(ids)
        positions, parts, labels = list(range(start)), [SHARED] * start, [UNKNOWN] * start
        for part, task in enumerate(tasks, SHARED + 1):
            _, behind = self.around(task.instruction)
            text = self._encode(f" {task.text}")
            rows = behind + text
            ids += rows
            positions += range(start, start + len(rows))
            parts += [part] * len(rows)
            labels += [UNKNOWN] * (len(behind) - 1) + [*text, self.eos]
        return tuple(map(torch.tensor, (ids, positions, parts, labels)))


class LanguageStage(ListeningStage[Tensor]):
    """Projector and language model, above a frozen encoder."""

    audio_weight = 1.0
    model: GraniteSpeech

    def __init__(
        self,
        model: GraniteSpeech,
        tokenizer: Tokenizer,
        device: torch.device,
        *,
        mixed: bool,
        directory: Path,
    ) -> None:
        super().__init__(tokenizer, device, mixed=mixed)
        self.model = model
        self.language = model.config.language
        self.prompts = Prompts(directory, tokenizer, self.language.audio_token, self.language.eos)
        self._forms_of: Callable[[str], Forms] = cache(Forms.of)

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.projector.parameters()
        yield from self.model.language.parameters()

    def hear(self, features: Tensor) -> Tensor:
        return self.model.encoder.hear(features).final.to(torch.bfloat16)

    def forms(self, example: Example) -> Forms:
        """All forms of what is said in it."""
        return Forms.joined([self._forms_of(text) for text in example.parts or (example.text,)])

    def tasks(self, example: Example, rng: random.Random) -> list[Task]:
        """What is asked about an utterance in a step: one thing at least."""
        forms = self.forms(example)
        everything = list(forms.fixed())
        chosen = [t for t, share in zip(everything, SHARES, strict=True) if rng.random() < share]
        keywords = 2 if forms.spelled else int(rng.random() < KEYWORDS_SHARE)
        chosen += [forms.with_keywords(rng) for _ in range(keywords)]
        return chosen or [rng.choice(everything)]

    def loss(self, batch: list[Example], step: int) -> Loss:
        rng = random.Random(step)
        heard = self.listen(batch, step).float()
        language, scale = self.model.language, self.language.logits_scaling
        head = language.embed_tokens if language.head is None else language.head
        with self.precision():
            audio = self.model.projector(heard)
            packed = self.prompts.packed([self.tasks(e, rng) for e in batch], audio.shape[1])
            states = self.states(packed, audio)
            said = packed.labels != UNKNOWN
            logits = states[said.to(self.device)] @ head.weight.T / scale
            listened = language.norm(audio) @ head.weight.T / scale
        labels = packed.labels[said].to(self.device)
        text = F.cross_entropy(logits.float(), labels)
        tokens = ctc(listened, [example.tokens for example in batch], self.language.eos)
        right = (logits.argmax(dim=-1) == labels).float().mean()
        return Loss(
            text + self.audio_weight * tokens,
            {"text": text.item(), "audio": tokens.item(), "right": right.item()},
        )

    def states(self, packed: Packed, audio: Tensor) -> Tensor:
        """What the language model's last norm gives for rows (B, N) and their audio (B, A, D)."""
        language, config, device = self.model.language, self.language, self.device
        ids, parts = packed.ids.to(device), packed.parts.to(device)
        rows = language.embed_tokens(ids)
        rows = rows.masked_scatter((ids == config.audio_token)[..., None], audio.to(rows.dtype))
        x = rows * config.embedding_multiplier
        place = torch.arange(ids.shape[1], device=device)
        foreign = (parts[:, None] != SHARED) & (parts[:, None] != parts[:, :, None])
        hidden = foreign | (place > place[:, None])
        bias = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)[:, None]
        longest = int(packed.positions.max()) + 1
        angles = rope_angles(longest, config.head_dim, config.rope_theta)[packed.positions]
        for layer in language.layers:
            x = layer(x, angles[:, None].to(device), bias)
        out: Tensor = language.norm(x)
        return out

    @torch.inference_mode()
    def scores(self, examples: list[Example]) -> dict[str, float]:
        pairs: dict[str, list[tuple[str, str]]] = {}
        rng = random.Random(0)
        for example in examples[:: max(1, len(examples) // SCORED)]:
            heard = self.model.encoder.hear(stacked([example]).to(self.device)).final
            audio = self.model.projector(heard)[0]
            forms = self.forms(example)
            names = ("raw", "punctuated", "spanish", "spanish punctuated", "keywords")
            tasks = (*forms.fixed(), forms.with_keywords(rng))
            for name, task in zip(names, tasks, strict=True):
                answer = self.answer(task.instruction, audio)
                pairs.setdefault(name, []).append((task.text, answer))
        return {name: word_error_rate(found) for name, found in pairs.items()}

    def answer(self, instruction: str, audio: Tensor) -> str:
        """The text for audio rows (A, D)."""
        language = self.model.language
        ids = self.prompts.asked(instruction, len(audio)).to(self.device)
        said = language.generate(language.rows(ids, audio), MOST_TOKENS)
        return decode(self.tokenizer, [token for token in said if token != self.language.eos])
