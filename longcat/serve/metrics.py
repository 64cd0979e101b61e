"""What Prometheus reads of a server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from longcat.serve.engine import Engine

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "longcat_requests", "Answers, by path and status of HTTP.", ["path", "status"], registry=registry
        )
        self.prompt_tokens = Counter(
            "longcat_prompt_tokens", "Tokens of prompts that were accepted.", registry=registry
        )
        self.made_tokens = Counter("longcat_generated_tokens", "Tokens that were made.", registry=registry)
        self.given_up = Counter(
            "longcat_requests_given_up", "Requests whose client went away before the end.", registry=registry
        )
        self.decisions = Counter(
            "longcat_dispatch_decisions", "Orders that the model was asked a courier for.", registry=registry
        )
        self.first_token = Histogram(
            "longcat_time_to_first_token_seconds",
            "From a request to its first token.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.duration = Histogram(
            "longcat_request_seconds", "From a request to the end of its answer.", registry=registry, buckets=_SECONDS
        )
        running = Gauge("longcat_texts_running", "Texts that are being made.", registry=registry)
        running.set_function(lambda: engine.running)
        unfinished = Gauge("longcat_texts_unfinished", "Texts that are being made or wait.", registry=registry)
        unfinished.set_function(lambda: engine.unfinished)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' form of text."""
        return generate_latest(self._registry)
