"""The language model at work: prompts in one pass, then steps that cost no rebuilding.

    prompt, guess ── one pass ──→ cache, choice after the prompt and after each token
    step          ── a kept graph for so many rows and keys ──→ cache, choice after each token

Rows and keys of a step are rounded up, so that few graphs serve all lengths. Rows that are only
there to fill up are written behind the text, where nothing sees them until they are overwritten.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from granite_gguf.arrays import AnyArray, FloatArray, IntArray, matrix
from granite_gguf.closing import Closing
from granite_gguf.ggml import BF16, F16, F32, GGMLType, Graph, KeptGraph, Runtime, State
from granite_gguf.graph.granite import Cache, causal_mask
from granite_gguf.graph.layers import PART_NODES, Weights, queries_together
from granite_gguf.spec.hparams import Granite
from granite_gguf.spec.tables import granite_tensors
from granite_gguf.spec.tensors import LLAMA_NAMES, Stage
from granite_gguf.speech.causal import Continued, all_asked, build_causal
from granite_gguf.speech.drafts import STEP_ROWS, Draft
from granite_gguf.speech.greedy import (
    ALIKE,
    CLEAR,
    CLEAR_OF_INTEGERS,
    Choice,
    End,
    Said,
    Step,
    Text,
    speak,
)

_KEYS = 256  # a step's keys are a multiple of it
_KEPT = 12  # graphs, each with memory of its own
_KEPT_ROWS = 320  # of all of them: 128 MB of the released models' logits
_NODES = 48  # operations of a layer, and of one more recording in it

_PURPOSE = "Continuing a text"
_REMEDY = "Transcribe fewer recordings together, or in shorter pieces, or free some memory"


class _Kind(NamedTuple):
    """Steps that one graph serves: of which recordings, how many rows each, and keys seen; and
    whether what flows in it is looked at.
    """

    recordings: tuple[int, ...]
    rows: int
    keys: int
    watched: bool

    @property
    def all_rows(self) -> int:
        return self.rows * len(self.recordings)


class Language(Closing):
    """A causal language model on a runtime. Who calls it holds the runtime's lock.

    Args:
        runtime: computes.
        weights: the model's, by name.
        embed: rows ``(n, d_model)`` of token ids ``(n,)``.
        numbers: the model's.
        check: refuses logits' sums that are not finite.
        cache_type: of keys and values, F16 or F32.
    """

    def __init__(
        self,
        runtime: Runtime,
        weights: Weights,
        embed: Callable[[IntArray], FloatArray],
        numbers: Granite,
        check: Callable[[AnyArray], None],
        cache_type: GGMLType = F16,
    ) -> None:
        self._runtime, self._weights, self._embed = runtime, weights, embed
        self._numbers, self._check, self.cache_type = numbers, check, cache_type
        self._clear = _clear(weights, numbers)
        self._stack = ExitStack()
        self._caches: list[list[Cache]] = []
        self._capacity = 0
        self._lengths: list[int] = []
        self._kept: OrderedDict[_Kind, tuple[Graph, KeptGraph]] = OrderedDict()

    def generate(
        self,
        prompts: Sequence[FloatArray],
        eos: int,
        budgets: Sequence[int],
        drafts: Sequence[Draft | None],
        unwanted: Callable[[int], bool] | None = None,
    ) -> list[Said]:
        """Texts after prompts, all together.

        Args:
            prompts: of each, rows ``(n, d_model)`` before their multiplier, at least one.
            eos: the token that ends a text.
            budgets: of each, the most tokens.
            drafts: of each, guesses or none.
            unwanted: asked between tokens by a text's number whether it need not go on.

        Raises:
            OutOfMemoryError: there is no room for their keys and values.
        """
        asking = zip(budgets, drafts, strict=True)
        texts = {n: speak(eos, *of, self._clear) for n, of in enumerate(asking)}
        choices = self.begin(prompts, budgets, [next(text).tokens for text in texts.values()])
        found: dict[int, Said] = {}
        steps = {n: _go_on(text, choices[n], n, found) for n, text in texts.items()}
        while wanted := {n: step for n, step in steps.items() if step is not None}:
            for n in [n for n in wanted if unwanted is not None and unwanted(n)]:
                found[n] = Said((), (), End.UNWANTED)
                del wanted[n]
            answers = self._answers(wanted) if wanted else {}
            steps = {n: _go_on(texts[n], answers[n], n, found) for n in wanted}
        return [found[n] for n in texts]

    def _answers(self, wanted: Mapping[int, Step]) -> dict[int, list[Choice]]:
        """As :meth:`step`, but what is not clear of rounding is asked for again alone."""
        answers = self.step(wanted)
        if len(wanted) > 1:
            for n, (choice, *more) in answers.items():
                if choice.lead < self._clear and not more:
                    answers |= self.step({n: wanted[n]})
        return answers

    def begin(
        self,
        prompts: Sequence[FloatArray],
        budgets: Sequence[int],
        guesses: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Choice]]:
        """Forget all that was said, and take in new prompts, and what may follow each of them.

        Returns:
            Of each what it goes on with, and what would follow each token of its guess.
        """
        found = self._begin(prompts, budgets, guesses or [()] * len(prompts))
        return [self._choices(logits) for logits in found]

    def step(self, wanted: Mapping[int, Step]) -> dict[int, list[Choice]]:
        """The choices after each token of some recordings' steps."""
        return {n: self._choices(logits) for n, logits in self._step(wanted).items()}

    def logits(self, prompt: FloatArray, tokens: Sequence[int]) -> FloatArray:
        """Logits ``(1 + n, vocabulary)`` after a prompt and after each of n tokens, scaled.

        They are those that a text with these tokens meets: the prompt's pass, then single steps.
        """
        found = self._begin([prompt], [len(tokens)], [()])
        found += [self._step({0: Step(n, (token,))})[0] for n, token in enumerate(tokens)]
        scaled: FloatArray = np.concatenate(found) / np.float32(self._numbers.logits_scaling)
        return scaled

    def _begin(
        self,
        prompts: Sequence[FloatArray],
        budgets: Sequence[int],
        guesses: Sequence[Sequence[int]],
    ) -> list[FloatArray]:
        """Logits ``(1 + guessed tokens, vocabulary)`` of each."""
        longest = max(len(p) + most for p, most in zip(prompts, budgets, strict=True))
        self._reserve(len(prompts), longest + max(STEP_ROWS))
        self._lengths = [len(p) for p in prompts]
        recordings: list[Continued] = []
        starts: list[int] = []
        rows: list[FloatArray] = []
        for cache, prompt, guess in zip(self._caches, prompts, guesses, strict=False):
            length, count = len(prompt), len(guess)
            recordings.append(Continued(length, length, 1, cache))
            starts.append(0)
            rows.append(prompt)
            if count:  # it looks at the cache as a step does, and gets a step's numbers
                recordings.append(Continued(count, _bucket(length + count), count, cache))
                starts.append(length)
                rows.append(self._embed(np.array(guess)))
        inputs = _inputs(recordings, starts, rows)
        with self._graph(recordings) as graph:
            build_causal(graph, self._weights, self._numbers, recordings)
            logits = self._logits(self._runtime.compute(graph, inputs))
        return np.split(logits, np.cumsum([1 + len(guess) for guess in guesses])[:-1])

    def _step(self, wanted: Mapping[int, Step]) -> dict[int, FloatArray]:
        """Logits ``(tokens, vocabulary)`` of each."""
        longest = max(len(step.tokens) for step in wanted.values())
        rows = next((r for r in STEP_ROWS if r >= longest), longest)
        starts = {n: self._lengths[n] + step.said for n, step in wanted.items()}
        keys = _bucket(max(starts.values()) + rows)
        recordings = [Continued(rows, keys, rows, self._caches[n]) for n in wanted]
        filled = [
            self._embed(np.array(step.tokens + step.tokens[-1:] * (rows - len(step.tokens))))
            for step in wanted.values()
        ]
        kept = self._keep(_Kind(tuple(wanted), rows, keys, self._runtime.watched), recordings)
        logits = self._logits(kept.run(_inputs(recordings, list(starts.values()), filled)))
        return {
            n: logits[at * rows : at * rows + len(step.tokens)]
            for at, (n, step) in enumerate(wanted.items())
        }

    def _logits(self, out: Mapping[str, AnyArray]) -> FloatArray:
        """The vocabulary's, without what fills up the head's rows: ``(rows, vocabulary)``."""
        return matrix(out["logits"])[:, : self._numbers.vocab_size]

    def _choices(self, rows: FloatArray) -> list[Choice]:
        with np.errstate(all="ignore"):
            self._check(rows.sum(axis=1))
        return [_choice(row, self._numbers.logits_scaling) for row in rows]

    def _reserve(self, count: int, length: int) -> None:
        """Caches for so many recordings of so many positions."""
        length = _bucket(length)
        if count <= len(self._caches) and length <= self._capacity:
            return
        g, old = self._numbers, (len(self._caches), self._capacity)
        self._drop()
        count, length = max(count, old[0]), max(length, old[1])
        state = self._stack.enter_context(State(self._runtime, 2 * count * g.n_layers))
        width = g.n_kv_heads * g.head_dim
        for n in range(count):
            self._caches.append(
                [
                    Cache(
                        state.add(f"keys.{n}.{layer}", [width, length], self.cache_type),
                        state.add(f"values.{n}.{layer}", [width, length], self.cache_type),
                    )
                    for layer in range(g.n_layers)
                ]
            )
        try:
            state.place("The text's keys and values", _REMEDY)
        except BaseException:
            self._drop()
            raise
        self._capacity = length

    def _keep(self, kind: _Kind, recordings: Sequence[Continued]) -> KeptGraph:
        """The graph of a kind of step, made when it is first wanted."""
        if kind not in self._kept:
            while self._kept and (
                len(self._kept) >= _KEPT
                or kind.all_rows + sum(other.all_rows for other in self._kept) > _KEPT_ROWS
            ):
                _, (old, plan) = self._kept.popitem(last=False)
                plan.close()
                old.close()
            graph = self._graph(recordings)
            try:
                build_causal(graph, self._weights, self._numbers, recordings)
                self._kept[kind] = graph, self._runtime.keep(graph)
            except BaseException:
                graph.close()
                raise
        self._kept.move_to_end(kind)
        return self._kept[kind][1]

    def _graph(self, recordings: Sequence[Continued]) -> Graph:
        each = _NODES * (1 + len(recordings))
        for r in recordings:
            together = queries_together(r.rows, r.keys, self._numbers.n_heads)
            each += PART_NODES * (r.rows // together)
        nodes = (self._numbers.n_layers + 1) * each
        watched = self._runtime.watched
        return Graph(purpose=_PURPOSE, remedy=_REMEDY, nodes=nodes, watched=watched)

    def _drop(self) -> None:
        for graph, plan in self._kept.values():
            plan.close()
            graph.close()
        self._kept.clear()
        self._caches.clear()
        self._capacity = 0
        self._stack.close()

    def close(self) -> None:
        self._drop()


def _bucket(length: int) -> int:
    """As many keys, rounded up."""
    return -(-length // _KEYS) * _KEYS


def _clear(weights: Weights, g: Granite) -> float:
    """By how much a choice has to lead, so that company cannot have changed it.

    Our kernels compute a row in the same way whatever stands beside it, and so does attention of
    few rows.
    """
    table = granite_tensors(g, Stage.LANGUAGE, LLAMA_NAMES, head=LLAMA_NAMES.head in weights)
    matrices = [weights[spec.name] for spec in table.specs if spec.role.is_matrix]
    of_ggml = {matrix.type for matrix in matrices if matrix.multiplier is None}
    if not of_ggml:
        return ALIKE
    return CLEAR if of_ggml <= {F32, F16, BF16} else CLEAR_OF_INTEGERS


def _go_on(
    text: Text, choices: Sequence[Choice] | None, n: int, found: dict[int, Said]
) -> Step | None:
    """The next step of a text, or none: then it is found."""
    try:
        return next(text) if choices is None else text.send(choices)
    except StopIteration as over:
        found[n] = over.value
        return None


def _inputs(
    recordings: Sequence[Continued], starts: Sequence[int], rows: Sequence[FloatArray]
) -> dict[str, AnyArray]:
    positions = [
        np.arange(start, start + r.rows, dtype=np.int32)
        for start, r in zip(starts, recordings, strict=True)
    ]
    asked = [of[r.rows - r.asked :] for of, r in zip(positions, recordings, strict=True)]
    masks = {
        f"mask_{k}": causal_mask(of, r.keys)
        for k, (of, r) in enumerate(zip(positions, recordings, strict=True))
    }
    found: dict[str, AnyArray] = {
        "rows": np.concatenate(rows),
        "positions": np.concatenate(positions),
        **masks,
    }
    if not all_asked(recordings):
        found["asked_positions"] = np.concatenate(asked)
    return found


def _choice(row: FloatArray, scale: float) -> Choice:
    token = int(row.argmax())
    behind = row - row[token]
    second = max(part.max(initial=-np.inf) for part in (behind[:token], behind[token + 1 :]))
    spread = math.sqrt(max(0.0, float(behind @ behind) / len(row) - float(behind.mean()) ** 2))
    behind /= np.float32(scale)
    probability = float(1.0 / np.exp(behind, out=behind).sum())
    return Choice(token, probability, -float(second) / spread if spread else 0.0)
