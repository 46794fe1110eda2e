"""Blocks of recordings through actors of Ray Data, until every one has a result.

    rows → blocks → actors: contents, transcripts, a part of the output → what became of each row

Through Ray's object store go names and what became of them; audio is read where it is transcribed,
and results are written there. A block whose actor or machine is lost is done again in a further
round. A round that comes to nothing is followed by one of smaller blocks, so that a recording that
ends its process is found, and is a failure of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import current_thread, main_thread
from typing import Any

from granite_gguf.bulk.inputs import read_contents
from granite_gguf.bulk.outputs import Output
from granite_gguf.errors import DeviceError, InputError, OutputError
from granite_gguf.places import import_extra
from granite_gguf.ray import RESULTS, Transcriber

ray = import_extra("ray")
import_extra("ray.data")
pa = import_extra("pyarrow")
pc = import_extra("pyarrow.compute")

STORE_BYTES = 128 << 20
"""Of Ray's object store, where it is started here."""

_CPUS = 4  # of an actor: as many recordings side by side
_LARGEST_BLOCK = 500  # rows
_SMALLEST_BLOCK = 16
_BLOCKS = 16  # for each actor, so that none waits long for the last
_AT_ONCE = 64  # blocks for each actor, whose names are in the object store
_SMALLER = 16  # times, each time that a round comes to nothing
_VAIN_ROUNDS = 3  # with recordings by themselves, until these are known to end their process
_COLUMNS = ["path", *RESULTS.names]
_TOLD = ["path", "error", "duration", "seconds"]


@dataclass(frozen=True)
class Actors:
    """How many there are, and what each has."""

    count: int
    cpus: int
    gpus: float


@dataclass
class Summary:
    """What became of the recordings of a run.

    Attributes:
        done: how many have a transcript.
        audio_seconds: how much audio these are.
        failures: how many failed, by reason.
    """

    done: int = 0
    audio_seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(self.failures.values())

    def add(self, told: Any) -> None:
        """Count what an actor told of a block."""
        for error, duration in zip(
            told["error"].to_pylist(), told["duration"].to_pylist(), strict=True
        ):
            if error is None:
                self.done += 1
                self.audio_seconds += duration
            else:
                self.failures[error] = self.failures.get(error, 0) + 1


@contextmanager
def ray_running(cpus: int) -> Iterator[None]:
    """Ray as RAY_ADDRESS names it, or started here for as long as the block takes.

    Args:
        cpus: of this machine, where it is started here.

    Raises:
        DeviceError: it cannot be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it writes to stderr
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its file keeps everything
            handler.setLevel(logging.CRITICAL)
    here: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        # Without an address it would join whatever Ray else runs on this machine.
        here = {
            "address": "local",
            "num_cpus": cpus,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        }
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
    except Exception as error:
        where = os.environ.get("RAY_ADDRESS") or "this machine"
        raise DeviceError(f"Ray on {where} cannot be used: {error}") from error
    if terminate is not None and current_thread() is main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray's own ends in a dump of the stack
    try:
        yield
    finally:
        ray.shutdown()


def choose_actors(count: int | None, cpus: int | None, gpus: float) -> Actors:
    """As many actors as the machines of the cluster hold, or as many as are asked for.

    Args:
        count: how many; by default as many as there is room for.
        cpus: CPUs of each; by default four, or all of the largest machine, where that has less.
        gpus: GPUs of each.

    Raises:
        InputError: no machine holds one.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
    each = cpus or max(1, min(_CPUS, largest))
    holding = 0
    for machine in machines:
        fitting = int(machine.get("CPU", 0) // each)
        holding += min(fitting, int(machine.get("GPU", 0) / gpus)) if gpus else fitting
    if not holding:
        with_gpus = f" and {gpus:g} GPUs" if gpus else ""
        raise InputError(
            f"no machine has {each} CPUs{with_gpus} for an actor; the largest has {largest} CPUs"
        )
    return Actors(count or holding, each, gpus)


class Worker:
    """Transcribes blocks and writes a part for each: what an actor holds."""

    def __init__(self, output: Output, options: Mapping[str, Any]) -> None:
        self._output = output
        self._transcriber = Transcriber(**options)

    def __call__(self, rows: Any) -> Any:
        """What became of the rows; under ``fault`` why the work cannot go on."""
        try:
            results = self._transcribe(rows)
            self._output.write(results)
        except OutputError as error:
            return pa.table({"fault": [str(error)]})
        except Exception as error:
            return pa.table({"fault": [f"{type(error).__name__}: {error}"]})
        return results.select(_TOLD)

    def _transcribe(self, rows: Any) -> Any:
        found = []
        try:
            for some in read_contents(rows):
                found.append(self._transcriber(some).select(_COLUMNS))
        except InputError as error:  # a Parquet file that breaks off: the rest of this block
            done = pa.concat_tables(found)["path"] if found else pa.array([], pa.string())
            found.append(_failed(without(rows, done), f"InputError: {error}"))
        return pa.concat_tables(found)


def transcribe_rows(
    rows: Any, output: Output, options: Mapping[str, Any], actors: Actors, block: int | None = None
) -> Iterator[Any]:
    """Transcribe what a table names, and write the results.

    Args:
        rows: like :data:`granite_gguf.bulk.inputs.ROWS`, none of which is done.
        output: where results go.
        options: of :class:`granite_gguf.ray.Transcriber`.
        actors: what computes.
        block: rows of a block and of a part; by default what keeps all actors at work.

    Yields:
        What became of some rows: ``path``, ``error``, ``duration``, ``seconds``.

    Raises:
        OutputError: results cannot be written.
        DeviceError: no actor can load the model.
    """
    if block is None:
        block = max(_SMALLEST_BLOCK, rows.num_rows // (_BLOCKS * actors.count))
        block = min(_LARGEST_BLOCK, block, -(-rows.num_rows // actors.count))
    some = _AT_ONCE * block * actors.count
    for start in range(0, rows.num_rows, some):
        yield from _transcribe_some(rows.slice(start, some), output, options, actors, block)


def _transcribe_some(
    rows: Any, output: Output, options: Mapping[str, Any], actors: Actors, block: int
) -> Iterator[Any]:
    """As many as go through Ray's object store at once: in rounds, until all are done."""
    vain = 0  # rounds of one recording a block that came to nothing
    while rows.num_rows and vain < _VAIN_ROUNDS:
        told = []
        for some in _round(rows, output, options, actors, block):
            told.append(some["path"].combine_chunks())
            yield some
        if told:
            rows = without(rows, pa.concat_arrays(told))
        else:
            vain += block == 1
            block = max(1, block // _SMALLER)
    if rows.num_rows:
        why = f"ProcessEnded: {_VAIN_ROUNDS} times while this was transcribed"
        results = _failed(rows, why)
        output.write(results)
        yield results.select(_TOLD)


def _round(
    rows: Any, output: Output, options: Mapping[str, Any], actors: Actors, block: int
) -> Iterator[Any]:
    """Each block once; of one whose actor is lost nothing is told."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    blocks = [rows.slice(start, block) for start in range(0, rows.num_rows, block)]
    with warnings.catch_warnings():
        # Ray will drop this way to say that a task of an actor which is lost is not to wait for
        # it to come back; hence the newest version in pyproject.toml.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        told = ray.data.from_arrow(blocks).map_batches(
            Worker,
            fn_constructor_args=(output, options),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(actors.count, len(blocks)),
                # What waits at an actor is lost with it.
                max_tasks_in_flight_per_actor=2 if block > 1 else 1,
            ),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus or None,
            ray_remote_args_fn=_without_repetition,
        )
    try:
        for some in told.iter_batches(batch_size=None, batch_format="pyarrow"):
            if "fault" in some.column_names:
                raise OutputError(some["fault"][0].as_py())
            yield some
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise DeviceError(f"no actor can begin: {last}") from error


def _without_repetition() -> dict[str, Any]:
    return {"max_task_retries": 0}


def without(rows: Any, done: Any) -> Any:
    """The rows whose paths are not in an array."""
    return rows.filter(pc.invert(pc.is_in(rows["path"], value_set=done)))


def _failed(rows: Any, why: str) -> Any:
    """Results for rows that have none."""
    nothing = {f.name: pa.nulls(rows.num_rows, f.type) for f in RESULTS}
    error = pa.array([why] * rows.num_rows, pa.string())
    return pa.table({"path": rows["path"], **nothing, "error": error})
