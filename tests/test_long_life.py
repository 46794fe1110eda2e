"""One process over many recordings: no growth, the same answer from wherever it is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import granite_gguf
from benchmarks.long_life import bits, callers, processes, reload, repeat
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES

pytestmark = pytest.mark.alone
SAMPLE = DEMO_SAMPLES[0]
TEXT = SAMPLE.with_suffix(".txt").read_text().strip()


@pytest.fixture(scope="module")
def model() -> Iterator[granite_gguf.Model]:
    with granite_gguf.load(DEMO_MODEL, threads=2, device="cpu") as loaded:
        yield loaded


def test_memory_does_not_grow(model: granite_gguf.Model) -> None:
    texts, growth = repeat(model, SAMPLE, 20)
    assert {text.strip() for text in texts} == {TEXT}
    assert growth < 100  # kB: one copy of the logits alone is larger


def test_threads_and_processes_agree(model: granite_gguf.Model) -> None:
    assert {text.strip() for text in callers(model, SAMPLE, 8)} == {TEXT}
    assert processes(DEMO_MODEL, SAMPLE) == {TEXT}


def test_loading_again_leaks_nothing() -> None:
    assert reload(DEMO_MODEL, 30) < 300  # kB: the model has 10 MB


def test_the_same_bits_every_time() -> None:
    one, again, two = (bits(DEMO_MODEL, SAMPLE, threads) for threads in (1, 1, 2))
    assert one == again
    assert one[1] == two[1]
