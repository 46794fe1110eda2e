"""Many recordings in runs that are killed: what the whole list needs, and nothing twice."""

from __future__ import annotations

from benchmarks.interrupted import check


def test_a_run_killed_twice_goes_on() -> None:
    spent = check(clips=150, kills=2, seconds=0.5)
    assert spent["whole"] > 0 and spent["interrupted"] > 0
