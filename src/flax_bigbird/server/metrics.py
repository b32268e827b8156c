"""The metrics of a server, in the text format of Prometheus."""

from typing import TYPE_CHECKING

import prometheus_client as prometheus

from flax_bigbird.server.batches import Batch

if TYPE_CHECKING:
    from flax_bigbird.server.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536, 262144)


class Metrics:
    """Counts requests, tokens and batches. Each server has a registry of its own."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "bigbird_requests",
            "Requests, by path and status.",
            ("path", "status"),
            registry=self.registry,
        )
        self.request_seconds = prometheus.Histogram(
            "bigbird_request_seconds",
            "The time from the head of a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.request_tokens = prometheus.Histogram(
            "bigbird_request_tokens",
            "The tokens that were read for a request.",
            ("model",),
            buckets=TOKENS,
            registry=self.registry,
        )
        self.batch_seconds = prometheus.Histogram(
            "bigbird_batch_seconds",
            "The time that a batch had the device.",
            ("model",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_entries = prometheus.Counter(
            "bigbird_batch_entries",
            "Windows that were computed, and copies that filled batches up.",
            ("model", "kind"),
            registry=self.registry,
        )
        self.batch_tokens = prometheus.Counter(
            "bigbird_batch_tokens",
            "Tokens that were computed, with padding.",
            ("model",),
            registry=self.registry,
        )

    def watch(self, engine: "Engine") -> None:
        """Adds the gauges of an engine's queue."""
        for name, description, function in (
            (
                "bigbird_queue_tokens",
                "Tokens that wait for the device.",
                lambda: engine.queue.tokens,
            ),
            (
                "bigbird_requests_in_progress",
                "Requests that are worked on or wait.",
                lambda: engine.num_requests,
            ),
            (
                "bigbird_tokens_per_second",
                "The measured speed of the device.",
                lambda: engine.queue.tokens_per_second,
            ),
        ):
            gauge = prometheus.Gauge(name, description, registry=self.registry)
            gauge.set_function(function)

    def on_batch(self, batch: Batch, seconds: float) -> None:
        """Counts a batch; it is called by the device's thread."""
        model = batch.group.model
        self.batch_seconds.labels(model).observe(seconds)
        self.batch_entries.labels(model, "window").inc(len(batch.entries))
        self.batch_entries.labels(model, "filling").inc(batch.size - len(batch.entries))
        self.batch_tokens.labels(model).inc(batch.tokens)

    def text(self) -> bytes:
        """Returns all metrics."""
        return prometheus.generate_latest(self.registry)
