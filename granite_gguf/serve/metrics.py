"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from granite_gguf.transcript import Segment

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counts of one service.

    Args:
        passes: tells for each model that is loaded how many passes took so many recordings.
    """

    def __init__(self, passes: Callable[[], Mapping[str, Mapping[int, int]]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Passes(passes))
        self.requests = Counter(
            "granite_requests", "Answered requests.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "granite_request_seconds", "From a request's head to the end of its answer.",
            ["route"], buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "granite_requests_in_flight", "Requests being answered.", registry=self._registry
        )
        self.at_work = Gauge(
            "granite_recordings_at_work", "Recordings that wait or are computed.",
            registry=self._registry,
        )  # fmt: skip
        self._audio = Counter(
            "granite_audio_seconds", "Audio transcribed.", ["model"], registry=self._registry
        )
        self._compute = Counter(
            "granite_compute_seconds", "Time spent on it; audio / compute is the real-time factor.",
            ["model"], registry=self._registry,
        )  # fmt: skip

    def count(self, model: str, segment: Segment) -> None:
        """A segment is finished."""
        self._audio.labels(model).inc(segment.end - segment.start)
        self._compute.labels(model).inc(sum(segment.timings.values()))

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Passes(Collector):
    def __init__(self, passes: Callable[[], Mapping[str, Mapping[int, int]]]) -> None:
        self._passes = passes

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "granite_passes", "Passes by how many recordings shared them.",
            labels=["model", "recordings"],
        )  # fmt: skip
        for labels, count in self._counted():
            family.add_metric(labels, count)
        yield family

    def _counted(self) -> Iterator[tuple[tuple[str, str], int]]:
        for model, counts in self._passes().items():
            for together, count in sorted(counts.items()):
                yield (model, str(together)), count
