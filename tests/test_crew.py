"""Threads that runtimes share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest

from granite_gguf.errors import OutOfMemoryError
from granite_gguf.ggml.crew import Crew

SIZE = 77  # no runtime of the suite's has it


def identity(crew: Crew) -> int:
    with crew.thread() as thread:
        return thread.submit(threading.get_ident).result()


def living() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("granite-gguf")}


def test_crews_that_work_by_turns_have_one_thread() -> None:
    with Crew(SIZE) as first, Crew(SIZE) as second, Crew(SIZE + 1) as other:
        assert len({identity(first), identity(second), identity(first)}) == 1
        assert identity(other) != identity(first)


def test_crews_that_work_at_once_have_two_and_the_last_takes_both_along() -> None:
    before = living()
    with Crew(SIZE) as first:
        with Crew(SIZE) as second, first.thread() as one, second.thread() as another:
            assert one is not another
            one.submit(int).result(), another.submit(int).result()
            assert len(living() - before) == 2
        assert len(living() - before) == 1
        assert identity(first)
    assert living() <= before
    first.close()
    with pytest.raises(RuntimeError, match="closed"):
        identity(first)


def test_a_thread_is_free_again_after_a_fault() -> None:
    with Crew(SIZE) as crew:
        used = identity(crew)
        with pytest.raises(ZeroDivisionError), crew.thread() as thread:
            thread.submit(lambda: 1 // 0).result()
        assert identity(crew) == used


def test_what_a_refused_thread_should_have_done_is_left_to_nobody() -> None:
    with Crew(SIZE) as crew:
        refused = RuntimeError("can't start new thread")
        with (
            patch.object(ThreadPoolExecutor, "submit", side_effect=refused),
            pytest.raises(OutOfMemoryError, match="refuses another thread"),
        ):
            identity(crew)
        assert identity(crew)
