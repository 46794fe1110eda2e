"""The stages of the autoregressive model, one by one: each takes and gives numpy arrays.

encoder output → projector → audio rows ┐
text before and behind the audio ───────┴→ prompt rows → language model → tokens
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from granite_gguf.arrays import (
    Batch,
    FloatArray,
    IntArray,
    Rows,
    Samples,
    as_rows,
    checked_rows,
    in_kind,
)
from granite_gguf.errors import InputError
from granite_gguf.ggml import F16, GGMLType, Runtime
from granite_gguf.passes import NOTHING_ELSE
from granite_gguf.placing.finite import check_results
from granite_gguf.placing.weights import ModelWeights
from granite_gguf.spec.tensors import LLAMA_NAMES, Stage
from granite_gguf.speech import drafts
from granite_gguf.speech.asking import around_audio, instruction
from granite_gguf.speech.greedy import Said
from granite_gguf.speech.language import Language
from granite_gguf.speech.loops import token_budget
from granite_gguf.speech.qformer import audio_rows, build_qformer
from granite_gguf.speech.spec import Draft, HParams
from granite_gguf.stages import characters
from granite_gguf.stages.decoding import hypothesis_tokens
from granite_gguf.stages.shared import NO_TAPS, SharedStages
from granite_gguf.storage.model_file import ModelFile
from granite_gguf.tokenizer import SpeechTokenizer


class SpeechStages(SharedStages[HParams]):
    """What an autoregressive model computes, see
    :class:`granite_gguf.stages.shared.SharedStages`.

    Args:
        file: the model's file.
        tokenizer: its tokenizer.
        weights: its weights, where the runtime's device reads them.
        runtime: computes.
        cache_type: of the keys and values of what was said, F16 or F32.

    Attributes:
        known_characters: a label of the character head for each character; none where the file's
            head is not known.
    """

    def __init__(
        self,
        file: ModelFile[HParams],
        tokenizer: SpeechTokenizer,
        weights: ModelWeights,
        runtime: Runtime,
        cache_type: GGMLType = F16,
    ) -> None:
        super().__init__(file, tokenizer, weights, runtime)
        llm = file.hparams.llm
        scaling = llm.logits_scaling if llm.apply_logits_scaling else 1.0
        self.known_characters = characters.labels_of(file)
        self._language = Language(
            runtime,
            weights,
            self.embed,
            replace(llm, logits_scaling=scaling),
            partial(check_results, file, "language model"),
            cache_type,
        )

    @property
    def cache_type(self) -> GGMLType:
        """What keys and values are kept as."""
        return self._language.cache_type

    @property
    def _bpe_head(self) -> Draft:
        return self.hparams.draft

    def close(self) -> None:
        with self._runtime.lock:
            super().close()
            self._language.close()

    @property
    def has_head(self) -> bool:
        """Whether a BPE head hears the first hypothesis; otherwise that of characters does."""
        return bool(self.hparams.draft.bpe_vocab)

    @property
    def heard_by(self) -> frozenset[str]:
        """The taps of the encoder that a first hypothesis is made of."""
        return NO_TAPS if self.has_head else frozenset({characters.LOGITS})

    def first_hypothesis(
        self, taps: Mapping[str, FloatArray], ids: IntArray | None
    ) -> tuple[str, IntArray | None]:
        """What the encoder hears in a recording, and a draft of the answer, if it hears anything.

        Args:
            taps: of the encoder, :attr:`heard_by`.
            ids: ``(windows,)``, the best of the BPE head, where the model has one.
        """
        if ids is not None:
            tokens = self.read_hypothesis(ids)
            return self.detokenize(tokens).strip(), tokens
        text = characters.text_of(self.known_characters, taps[characters.LOGITS])
        # Behind the colon of the base models' prompts a word begins with a space, as in a text.
        lead = " " if self.hparams.family == "base" else ""
        return text, self.tokenize(lead + text) if text else None

    def _heard(self, mel: FloatArray) -> str:
        if self.has_head:
            return super()._heard(mel)
        return self.first_hypothesis(self.run_encoder(mel, self.heard_by).taps, None)[0]

    def read_hypothesis(self, ids: Batch) -> Batch:
        """Token ids ``(n,)`` of the first hypothesis, from the best ids of the BPE head."""
        tokens = as_rows(ids).each(partial(hypothesis_tokens, self._bpe_head))
        return in_kind(ids, tokens)

    def run_projector(self, captured: Batch) -> Batch:
        """Audio rows ``(3 * ceil(T / 15), 2048)`` of encoder output ``(T, 1024)``, T at least 1.

        They stand in a prompt as embeddings do, before these are multiplied.
        """
        p = self.hparams.projector
        states = checked_rows("captured", captured, p.encoder_hidden_size)
        out = self._run_stage(
            Stage.PROJECTOR,
            NO_TAPS,
            lambda graph: build_qformer(graph, self._weights, p, states.counts),
            {"encoded": states.array},
        )
        counts = tuple(audio_rows(p, count) for count in states.counts)
        return in_kind(captured, Rows(out["projected"], counts))

    def embed(self, ids: IntArray) -> FloatArray:
        """The rows ``(n, 2048)`` of token ids ``(n,)``, before they are multiplied."""
        vocabulary = self.hparams.llm.vocab_size
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary:
            raise InputError(f"token ids are not all below the vocabulary size {vocabulary}")
        return self._weights.read_rows(LLAMA_NAMES.embedding, ids)

    def prompt(self, audio: FloatArray, around: tuple[str, str]) -> FloatArray:
        """The rows ``(n, 2048)`` of a prompt: audio rows with text before them and behind."""
        return self.prompt_rows(self.prompt_ids(len(audio), around), audio)

    def prompt_ids(self, audio_rows: int, around: tuple[str, str]) -> IntArray:
        """Ids ``(n,)`` of text around so many audio tokens."""
        before, behind = (self.tokenize(text) for text in around)
        audio = np.full(audio_rows, self.hparams.llm.audio_token_index, np.int64)
        return np.concatenate([before, audio, behind])

    def prompt_rows(self, ids: IntArray, audio: FloatArray) -> FloatArray:
        """The rows ``(n, 2048)`` of prompt ids ``(n,)``: audio rows in place of audio tokens."""
        llm = self.hparams.llm
        checked_rows("audio", audio, llm.d_model)
        places = ids == llm.audio_token_index
        if places.sum() != len(audio):
            raise InputError(f"{len(audio)} audio rows for {places.sum()} audio tokens in a prompt")
        rows = np.array(self.embed(ids))
        rows[places] = audio
        return rows

    def generate(
        self,
        prompts: Sequence[FloatArray],
        budgets: Sequence[int],
        guesses: Sequence[IntArray | None] | None = None,
        unwanted: Callable[[int], bool] | None = None,
    ) -> list[Said]:
        """What is said after prompts, the likeliest token by token, all texts together.

        Args:
            prompts: of each, rows ``(n, 2048)``, at least one.
            budgets: of each, the most tokens.
            guesses: of each, what it will probably be, or None. They change how long it takes and
                nothing else.
            unwanted: asked between tokens by a text's number whether it need not go on.

        Raises:
            OutOfMemoryError: there is no room for the keys and values.
        """
        made = [
            None if guess is None else drafts.Draft(guess.tolist())
            for guess in guesses or [None] * len(prompts)
        ]
        with self._computing():
            said = self._language.generate(
                prompts, self.hparams.llm.eos_token_id, budgets, made, unwanted
            )
        self._weights.let_go(Stage.LANGUAGE)
        return said

    def logits(self, prompt: FloatArray, tokens: IntArray) -> FloatArray:
        """Logits ``(1 + n, vocabulary)`` after a prompt and after each of n tokens, scaled."""
        with self._computing():
            found = self._language.logits(prompt, tokens.tolist())
        self._weights.let_go(Stage.LANGUAGE)
        return found

    def in_turn(self, samples: Samples) -> Generator[str, None, int | None]:
        """Run a pass of mono samples ``(n,)``; yields each stage's name before it runs.

        The text is the one that the model writes as its card asks for it, with a draft. Returns
        None, as no text is edited.
        """
        h, mel = self.hparams, self.compute_mel(samples)
        if not len(mel):
            return None
        yield "encoder"
        encoded = self.run_encoder(mel, self.heard_by)
        yield "hypothesis"
        ids = self.run_hypothesis_head(encoded.final, encoded.blank).ids if self.has_head else None
        _, draft = self.first_hypothesis(encoded.taps, ids)
        yield "projector"
        audio = self.run_projector(encoded.captured)
        yield "language model"
        prompt = self.prompt(audio, around_audio(h, instruction(h, NOTHING_ELSE)))
        self.generate([prompt], [token_budget(len(samples) / h.front_end.sample_rate)], [draft])
        return None
