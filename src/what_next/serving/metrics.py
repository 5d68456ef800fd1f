"""The service's metrics, for Prometheus."""

from collections.abc import Mapping
from functools import cache, partial
from time import time
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192)
"""Bounds of the histograms of times; `SIZES`: of batch sizes; `SHARES`: of shares."""
SIZES = tuple(2.0**power for power in range(11))
SHARES = tuple(tenth / 10 for tenth in range(11))


OF_LOOP = {
    "age_seconds": ("learned_until", "Time since the log was exported that the deployed weights have learned from"),
    "unlearned": ("unlearned", "Events and feedback that no candidate has learned from yet"),
    "reward": ("reward", "What an answer of the deployed version earned on average"),
    "reward_low": ("reward_low", "Its lower bound, for any number of looks"),
    "reward_high": ("reward_high", "Its upper bound, for any number of looks"),
    "drift": ("drift", "Whether drift was detected since the last round began (1)"),
}
"""Metrics from the loop's journal, by name: the name in the journal, and a description."""


class Metrics:
    """All metrics of one service, in a registry of its own; thread-safe.

    Attributes:
        batches: batch sizes; `versions`: switches to another version.
        sessions: by how a user's session was obtained: in memory, by folding in events, or rebuilt from the store.
        loads: of versions, by outcome: loaded, failed, late; `shadows`: by outcome: recorded, dropped, failed.
        overlap: of shown answers with shadow answers; `store_failures`: failed uses of the store.
        ready: the result of the last `/ready`.
        gauge: makes a further gauge.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="what_next", registry=self.registry)
        counter = partial(Counter, namespace="what_next", registry=self.registry)
        histogram = partial(Histogram, namespace="what_next", registry=self.registry)
        self.gauge = partial(Gauge, namespace="what_next", registry=self.registry)
        about = "Requests, by route and status"
        self._requests = counter("requests", about, ("method", "route", "status"))
        about = "Time from a request's headers to its answer"
        self._seconds = histogram("request_seconds", about, ("route",), buckets=SECONDS)
        about = "Recommendations, by who answered and why"
        self._answers = counter("answers", about, ("role", "policy", "fallback"))
        about = "Time from a question to its durable answer, within the engine"
        self._answering = histogram("answer_seconds", about, ("role",), buckets=SECONDS)
        self.batches = histogram("batch_size", "Questions that went through the model together", buckets=SIZES)
        sessions = counter("sessions", "Sessions, by how they were obtained", ("found",))
        self.ready = self.gauge("ready", "Whether /ready says that the service can answer (1) or not (0)")
        self.versions = counter("versions", "Switches to another version")
        self.loads = counter("loads", "Attempts to load a version, by outcome", ("what",))
        self.shadows = counter("shadow_answers", "Shadow answers of the second model, by outcome", ("what",))
        about = "Share of the shown items that are also in the second model's shadow answer"
        self.overlap = histogram("shadow_overlap", about, buckets=SHARES)
        told = {"events": "Events, by outcome", "feedback": "Feedback, by outcome"}
        self._happened = {what: counter(what, about, ("result",)) for what, about in told.items()}
        self.store_failures = counter("store_failures", "Times that the store could not be used")
        self._model = self.gauge("model_info", "The model that answers", ("version", "algorithm", "encoder"))
        self._of_loop = cache(lambda name: self.gauge(f"loop_{name}", OF_LOOP[name][1]))
        # Cached, because finding a child by its labels takes longer than counting.
        self._shed = cache(lambda route: self._requests.labels("POST", route, "503"))
        self._of_request = cache(lambda *labels: (self._requests.labels(*labels), self._seconds.labels(labels[1])))
        self._of_answer = cache(lambda *labels: (self._answers.labels(*labels), self._answering.labels(labels[0])))
        self.sessions = {found: sessions.labels(found) for found in ("hit", "fold", "rebuild")}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        count, times = self._of_request(method, route, str(status))
        count.inc()
        times.observe(seconds)

    def shed(self, route: str) -> None:
        """Count a question that was refused before it was parsed."""
        self._shed(route).inc()

    def answered(self, role: str, policy: str, fallback: str | None, seconds: float) -> None:
        """Count a durable answer by the model of a role, `seconds` after its question."""
        count, times = self._of_answer(role, policy, fallback or "none")
        count.inc()
        times.observe(seconds)

    def happened(self, what: Literal["events", "feedback"], **results: int) -> None:
        """Count events or feedback by outcome: accepted, duplicate, refused, unmatched, or erased (sent too late)."""
        for result, count in results.items():
            self._happened[what].labels(result).inc(count)

    def loop(self, numbers: Mapping[str, float]) -> None:
        """Set the loop's latest numbers (`Journal.numbers`), if there is a loop on this store."""
        for name, (read, _) in OF_LOOP.items():
            if (value := numbers.get(read)) is not None:
                self._of_loop(name).set(time() - value / 1e6 if read == "learned_until" else value)

    def text(self, model: Mapping[str, Any] | None = None) -> bytes:
        """All metrics in Prometheus's text format 0.0.4; the model's data are labels of `model_info`."""
        if model is not None:
            self._model.clear()
            self._model.labels(model["version"], model["algorithm"], model["encoder"]).set(1)
        return generate_latest(self.registry)
