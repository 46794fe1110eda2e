"""For Ray Data: a class whose objects transcribe batches of recordings, one in each actor.

::

    clips = ray.data.read_binary_files("s3://bucket/clips/", include_paths=True)
    texts = clips.map_batches(
        granite_gguf.ray.Transcriber, fn_constructor_kwargs={"model": "auto"}, batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=2), num_cpus=4,
    )

Needs the extra ``ray``; where Ray does not run, only pyarrow and fsspec of it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from granite_gguf.errors import GraniteError, InputError, brief
from granite_gguf.model import load
from granite_gguf.passes import Cache
from granite_gguf.places import file_system, import_extra, is_address, reaching
from granite_gguf.placing.kernel_choice import AUTO, Precision
from granite_gguf.sound.reading import duration_of
from granite_gguf.transcript import Transcript
from granite_gguf.transcription.many import longest_first
from granite_gguf.transcription.options import TranscribeOptions, divide

if TYPE_CHECKING:
    from typing_extensions import Unpack

pa = import_extra("pyarrow")

_TURN = pa.struct({"speaker": pa.string(), "text": pa.string()})
_SEGMENT = pa.struct(
    {"start": pa.float64(), "end": pa.float64(), "channel": pa.int64(), "text": pa.string(),
     "confidence": pa.float64(), "no_speech_prob": pa.float64(), "turns": pa.list_(_TURN),
     "remarks": pa.list_(pa.string())}
)  # fmt: skip
_WORD = pa.struct(
    {"word": pa.string(), "start": pa.float64(), "end": pa.float64(),
     "probability": pa.float64(), "aligned": pa.bool_(), "speaker": pa.string()}
)  # fmt: skip
RESULTS = pa.schema(
    {"text": pa.string(), "segments": pa.list_(_SEGMENT), "words": pa.list_(_WORD),
     "error": pa.string(), "duration": pa.float64(), "seconds": pa.float64()}
)  # fmt: skip
"""What is added to each row. Of a recording that failed there is ``error`` alone."""

_FETCHED_AHEAD = 8
_FETCHED_WHOLE = 64 << 20  # bytes; a larger file is read from where it lies, block by block


class ThreadsAndDevice(NamedTuple):
    """What a model is loaded with, as in :func:`granite_gguf.load`."""

    threads: int | None
    device: str

    @classmethod
    def of_actor(cls, device: str) -> ThreadsAndDevice:
        """As many threads as Ray gave this actor or task CPUs, and a GPU where it gave one.

        Args:
            device: the one asked for; elsewhere it is taken as it is.
        """
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return cls(None, device)
        context = ray.get_runtime_context()
        if context.worker.mode != ray.WORKER_MODE:
            return cls(None, device)
        given = context.get_assigned_resources()
        without_gpu = device == "auto" and not given.get("GPU")
        return cls(max(1, int(given.get("CPU", 1))), "cpu" if without_gpu else device)


class Transcriber:
    """Transcribes batches of recordings: for ``Dataset.map_batches``, and by itself.

    The model is loaded once, as the object is made. Its weights are mapped from the file, so that
    the objects of one machine share what lies in the page cache. In an actor it has as many threads
    as Ray gave the actor CPUs, and a GPU where Ray gave it one and this build of ggml can use it.

    Args:
        model: as in :func:`granite_gguf.load`.
        threads: CPU threads; by default the actor's CPUs, elsewhere all there are.
        device: as in :func:`granite_gguf.load`, like the next four.
        precision: as there.
        low_memory: as there.
        kernels: as there.
        cache: as there.
        options: as of :meth:`granite_gguf.Model.transcribe`.

    Raises:
        GraniteError: the model cannot be loaded, or cannot do what is asked for.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        threads: int | None = None,
        device: str = "auto",
        precision: str = Precision.EXACT,
        low_memory: bool = False,
        kernels: str = AUTO,
        cache: str = Cache.F16,
        **options: Unpack[TranscribeOptions],
    ) -> None:
        given = ThreadsAndDevice.of_actor(device)
        self.model = load(
            model,
            threads=threads or given.threads,
            device=given.device,
            precision=precision,
            low_memory=low_memory,
            kernels=kernels,
            cache=cache,
        )
        divided = divide({**options})
        self.model.check(divided.options)
        self._take = divided.take
        self._options = options

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Transcribe a batch.

        Args:
            batch: a pyarrow Table, or columns by name. ``path`` holds paths and addresses; where
                ``bytes`` holds something, that is the file's contents, and the path a name.

        Returns:
            A pyarrow Table of the same rows: the columns given, without ``bytes``, and those of
            :data:`RESULTS`. Whatever is wrong with one recording is its ``error``.

        Raises:
            InputError: there is neither ``path`` nor ``bytes``.
        """
        columns = {
            name: column.to_pylist() if hasattr(column, "to_pylist") else list(column)
            for name, column in (
                zip(batch.column_names, batch.columns, strict=True)
                if isinstance(batch, pa.Table)
                else batch.items()
            )
        }
        given = [columns[name] for name in ("bytes", "path") if name in columns]
        if not given:
            raise InputError(f"the batch has {sorted(columns)}, expected 'path' or 'bytes'")
        found = self._transcribe([next((v for v in row if v is not None), None)
                                  for row in zip(*given, strict=True)])  # fmt: skip
        names = columns.get("path", [None] * len(found))
        rows = [_row(name, result) for name, result in zip(names, found, strict=True)]
        kept = {n: c for n, c in columns.items() if n != "bytes" and n not in RESULTS.names}
        results = {f.name: pa.array([r.get(f.name) for r in rows], f.type) for f in RESULTS}
        return pa.table({**{name: pa.array(column) for name, column in kept.items()}, **results})

    def _transcribe(self, audio: Sequence[Any]) -> list[Transcript | Exception]:
        """The transcript of each, or why there is none."""
        found: dict[int, Transcript | Exception] = {}
        taken: list[int] = []

        order = longest_first(map(self._seconds, audio))

        def sources(pool: ThreadPoolExecutor) -> Iterator[Any]:
            fetched = _ahead(pool, [audio[place] for place in order])
            for place, source in zip(order, fetched, strict=True):
                if isinstance(source, Exception):
                    found[place] = source
                else:
                    taken.append(place)
                    yield source

        with ThreadPoolExecutor(_FETCHED_AHEAD, thread_name_prefix="granite-gguf-fetch") as pool:
            try:
                results = self.model.transcribe_many(sources(pool), **self._options)
                for number, result in enumerate(results):
                    found[taken[number]] = result
            except Exception:  # a fault, if any was taken; one by one it shows whose
                if not taken:
                    raise
                for place, given in enumerate(audio):
                    if place not in found:
                        found[place] = self._alone(given)
        return [found[place] for place in range(len(audio))]

    def _seconds(self, given: Any) -> float | None:
        """How long a recording is, where that is known before it is fetched."""
        if isinstance(given, bytes):
            return duration_of(BytesIO(given), self._take)
        here = isinstance(given, str) and Path(given).is_file()
        return duration_of(given, self._take) if here else None

    def _alone(self, given: Any) -> Transcript | Exception:
        source = _fetch(given)
        if isinstance(source, Exception):
            return source
        try:
            return self.model.transcribe(source, **self._options)
        except Exception as error:
            return error


def _ahead(pool: ThreadPoolExecutor, audio: Sequence[Any]) -> Iterator[Any]:
    """What the model is to read, in order, a few fetched while others are transcribed."""
    coming = iter(audio)
    waiting = deque(pool.submit(_fetch, given) for given in islice(coming, _FETCHED_AHEAD))
    while waiting:
        fetched = waiting.popleft().result()
        waiting.extend(pool.submit(_fetch, given) for given in islice(coming, 1))
        yield fetched


def _fetch(given: Any) -> Any:
    """A path of this machine, contents, an open file, or why there is none of these."""
    if isinstance(given, bytes) or (isinstance(given, str) and not is_address(given)):
        return given
    if not isinstance(given, str):
        return InputError(f"the row has {brief(given)}, expected a path or the bytes of a file")
    try:
        system, path = file_system(given)
        with reaching(given):
            if system.size(path) <= _FETCHED_WHOLE:
                return bytes(system.cat_file(path))
            return system.open(path, "rb")
    except GraniteError as error:
        return error


def _row(name: str | None, result: Transcript | Exception) -> dict[str, Any]:
    """The values of :data:`RESULTS`."""
    if isinstance(result, Exception):
        why = str(result)
        for known in (name, "the audio stream"):  # the row has its own name
            why = why.removeprefix(f"{known}: ")
        return {"error": f"{type(result).__name__}: {why}"}
    values = result.to_dict()
    words = [word for segment in values["segments"] for word in segment.get("words", ())]
    timed = any(segment.words is not None for segment in result.segments)
    return {
        "text": result.text,
        "segments": values["segments"],
        "words": words if timed else None,
        "duration": result.duration,
        "seconds": sum(result.timings.values()),
    }
