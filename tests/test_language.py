"""The language model at work, with its cache, kept graphs and drafts, against transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from granite_gguf import OutOfMemoryError, memory
from granite_gguf.arrays import AnyArray, FloatArray, IntArray
from granite_gguf.errors import ModelFileError
from granite_gguf.ggml import F16, F32, GGMLType, Runtime, Tensor
from granite_gguf.spec.tensors import LLAMA_NAMES
from granite_gguf.speech import language as module
from granite_gguf.speech.drafts import Draft
from granite_gguf.speech.greedy import End, Said
from granite_gguf.speech.language import Language
from tests.causal import EXPECTED, GRANITE, PROMPTS, TOKENS, torch_generated, weights
from tests.machine import scarce
from tests.placing import placed_weights

NEVER = 79  # a token that is not said
BUDGET = 31  # tokens, of which no loop can be made
CLOSE = 2e-5 / 8  # float32 in another order, and the division
F16_CLOSE = 2e-2 / 8


@pytest.fixture(scope="module")
def placed(runtime: Runtime) -> Iterator[dict[str, Tensor]]:
    with placed_weights(runtime, weights()) as tensors:
        yield tensors


@pytest.fixture(scope="module")
def expected() -> dict[str, AnyArray]:
    with np.load(EXPECTED) as file:
        return dict(file)


def embed(ids: IntArray) -> FloatArray:
    return weights()[LLAMA_NAMES.embedding][ids]


def finite(sums: AnyArray) -> None:
    if not np.isfinite(sums).all():
        raise ModelFileError("not finite")


@contextmanager
def language(
    runtime: Runtime, placed: dict[str, Tensor], kind: GGMLType = F16
) -> Iterator[Language]:
    with Language(runtime, placed, embed, GRANITE, finite, kind) as model:
        yield model


@pytest.fixture
def model(runtime: Runtime, placed: dict[str, Tensor]) -> Iterator[Language]:
    with language(runtime, placed) as model:
        yield model


def say(
    model: Language,
    prompts: Sequence[int],
    drafts: Sequence[Draft | None] | None = None,
    eos: int = NEVER,
    budget: int = BUDGET,
) -> list[Said]:
    rows = [embed(TOKENS[:n]) for n in prompts]
    return model.generate(rows, eos, [budget] * len(rows), drafts or [None] * len(rows))


@pytest.mark.parametrize("n", PROMPTS)
def test_the_expected_tokens_are_those_of_transformers(
    expected: dict[str, AnyArray], n: int
) -> None:
    pytest.importorskip("transformers.models.granite")
    np.testing.assert_array_equal(torch_generated(TOKENS[:n]), expected[f"said_{n}"])


@pytest.mark.parametrize("kind", [F32, F16], ids=["F32", "F16"])
@pytest.mark.parametrize("n", PROMPTS)
def test_what_is_said(
    runtime: Runtime,
    placed: dict[str, Tensor],
    expected: dict[str, AnyArray],
    kind: GGMLType,
    n: int,
) -> None:
    with language(runtime, placed, kind) as model:
        (said,) = say(model, [n])
        assert said.tokens == tuple(expected[f"said_{n}"][:BUDGET])
        assert said.end is End.BUDGET and said.steps == BUDGET


def test_the_end_is_not_part_of_the_text(model: Language, expected: dict[str, AnyArray]) -> None:
    wanted = expected["said_9"]
    (said,) = say(model, [9], eos=int(wanted[5]))
    assert said.tokens == tuple(wanted[:5]) and said.end is End.FINISHED


def test_a_loop_is_cut(model: Language, expected: dict[str, AnyArray]) -> None:
    """It says 3 and 17 for ever."""
    (said,) = say(model, [21], budget=400)
    assert said.end is End.LOOP and said.loop is not None
    assert said.tokens == tuple(expected["said_21"][: len(said.tokens)])
    assert said.tokens[-2:] == (17, 3) and len(said.tokens) == said.loop.start + 2 == 6


@pytest.mark.parametrize("n", PROMPTS)
def test_logits_after_each_token(
    runtime: Runtime, placed: dict[str, Tensor], expected: dict[str, AnyArray], n: int
) -> None:
    """Teacher-forced; probabilities are those of the divided logits."""
    for kind, close in ((F32, CLOSE), (F16, F16_CLOSE)):
        with language(runtime, placed, kind) as model:
            found = model.logits(embed(TOKENS[:n]), list(TOKENS[n:]))
        np.testing.assert_allclose(found, expected["untied"][n - 1 :] / 8, atol=close)
        with language(runtime, placed, kind) as model:
            ((choice,),) = model.begin([embed(TOKENS[:n])], [1])
        powers = np.exp(expected["untied"][n - 1] / 8)
        assert choice.probability == pytest.approx(powers.max() / powers.sum(), abs=1e-3)
        second, best = np.sort(expected["untied"][n - 1])[-2:]
        lead = (best - second) / expected["untied"][n - 1].std()
        assert choice.lead == pytest.approx(lead, abs=1e-2)


def test_recordings_together_say_what_each_says_alone(
    model: Language, expected: dict[str, AnyArray]
) -> None:
    drafts = [None, Draft(expected["said_9"]), None, Draft([5, 5])]
    together = say(model, [1, 9, 21, 9], drafts, eos=3)  # they end at different steps
    for n, said in zip([1, 9, 21, 9], together, strict=True):
        (alone,) = say(model, [n], eos=3)
        assert said.tokens == alone.tokens and said.end is alone.end
    assert len({said.steps for said in together}) > 2


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    n=st.sampled_from(PROMPTS),
    junk=st.lists(st.integers(0, 78), max_size=60),
    at=st.integers(0, 30),
    gone=st.integers(0, 8),
    good=st.booleans(),
)
def test_a_draft_changes_nothing_that_is_said(
    model: Language,
    expected: dict[str, AnyArray],
    n: int,
    junk: list[int],
    at: int,
    gone: int,
    good: bool,
) -> None:
    wanted = [int(token) for token in expected[f"said_{n}"]]
    draft = [*wanted[:at], *junk[:6], *wanted[at + gone :]] if good else junk
    (said,) = say(model, [n], [Draft(draft)])
    assert said.tokens == tuple(wanted[:BUDGET])


def test_a_draft_that_is_right_takes_few_steps(
    model: Language, expected: dict[str, AnyArray]
) -> None:
    for n in PROMPTS:
        (said,) = say(model, [n], [Draft(expected[f"said_{n}"])])
        assert said.steps <= 6 and said.accepted >= 24


def test_nothing_of_an_earlier_text_is_seen(model: Language, expected: dict[str, AnyArray]) -> None:
    """The cache is not cleared; what was left behind is under the mask until overwritten."""
    for n in (21, 1, 9, 1):
        (said,) = say(model, [n], [Draft([7, 5, 3] * 5)])
        assert said.tokens == tuple(expected[f"said_{n}"][:BUDGET])


def test_kinds_of_steps_are_planned_once(
    model: Language, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    planned = []
    keep = Runtime.keep
    monkeypatch.setattr(
        Runtime, "keep", lambda self, graph: planned.append(graph) or keep(self, graph)
    )
    say(model, [9], eos=NEVER)
    assert len(planned) == 1
    say(model, [21], eos=NEVER)
    assert len(planned) == 1


def test_graphs_that_are_kept_are_few_and_small(
    model: Language, monkeypatch: pytest.MonkeyPatch, expected: dict[str, AnyArray]
) -> None:
    """The oldest makes room, and is planned anew when it is wanted again."""
    monkeypatch.setattr(module, "_KEPT_ROWS", 40)
    for _ in range(2):
        drafts = [Draft(expected[f"said_{n}"]) for n in (1, 9, 21)]
        for n, said in zip((1, 9, 21), say(model, [1, 9, 21], drafts), strict=True):
            assert said.tokens == tuple(expected[f"said_{n}"][:BUDGET])
        rows = [kind.all_rows for kind in model._kept]
        assert len(rows) == 1 or sum(rows) <= 40


def test_a_cache_that_does_not_fit_is_refused(
    model: Language, expected: dict[str, AnyArray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the next text is said all the same."""
    with monkeypatch.context() as patch:
        patch.setattr(memory, "ROOT", scarce(tmp_path))
        with pytest.raises(OutOfMemoryError, match="keys and values"):
            say(model, [9], budget=1 << 16)
    (said,) = say(model, [9])
    assert said.tokens == tuple(expected["said_9"][:BUDGET])


def test_logits_that_are_not_finite_are_refused(
    runtime: Runtime, placed: dict[str, Tensor]
) -> None:
    def broken(ids: IntArray) -> FloatArray:
        return np.full_like(embed(ids), np.nan)

    with (
        Language(runtime, placed, broken, GRANITE, finite) as model,
        pytest.raises(ModelFileError, match="not finite"),
    ):
        model.generate([embed(TOKENS[:3])], NEVER, [5], [None])
