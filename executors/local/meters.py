"""What the runtime counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Meters:
    """Counters and gauges of one runtime, in a registry of their own."""

    def __init__(self, services: Sequence[str], waiting: Callable[[int], int], instances: Callable[[], int]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "partita_runtime_requests",
            "Requests answered, by how they ended",
            ["service", "outcome"],
            registry=registry,
        )
        self.batch = Histogram(
            "partita_runtime_batch_size", "Requests in a batch", ["service"], registry=registry, buckets=_BATCHES
        )
        self.latency = Histogram(
            "partita_runtime_latency_seconds",
            "From arrival to answer, of requests that were served",
            ["service"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.lateness = Histogram(
            "partita_runtime_start_lateness_seconds",
            "How much later than planned batches started",
            registry=registry,
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1),
        )
        self.lost = Gauge("partita_runtime_log_rows_lost", "Finished requests that no log kept", registry=registry)
        queued = Gauge("partita_runtime_queue_depth", "Requests that wait for a batch", ["service"], registry=registry)
        for number, service in enumerate(services):
            queued.labels(service).set_function(partial(waiting, number))
        Gauge("partita_runtime_instances", "Instances there are", registry=registry).set_function(instances)

    def text(self) -> bytes:
        """Write everything as Prometheus reads it."""
        return generate_latest(self._registry)
