"""What the kernel, the relay and the consumer count."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Meter:
    """The promise's own metrics, in the registry of one service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.inputs = Counter(
            "kernel_inputs",
            "Inputs by kind (command, fact) and outcome (applied, refused, duplicate, parked, skipped...).",
            ("kind", "outcome"),
            registry=registry,
        )
        self.facts = Counter("facts_decided", "Facts this service decided.", registry=registry)
        self.published = Counter("outbox_published", "Facts acknowledged by Kafka.", registry=registry)
        self.unpublished = Gauge(
            "outbox_unpublished", "Facts decided and not yet acknowledged by Kafka.", registry=registry
        )
        self.unpublished_age = Gauge(
            "outbox_oldest_seconds", "Age of the oldest unpublished fact.", registry=registry
        )
        self.parked = Gauge(
            "parked_events", "Events that need a person or queue behind one.", registry=registry
        )
        self.parked_age = Gauge(
            "parked_oldest_seconds", "Since when the oldest is parked.", registry=registry
        )
        self.waiting = Gauge(
            "waiting_things", "What lacks something that is still to come.", registry=registry
        )
        self.waiting_age = Gauge("waiting_oldest_seconds", "Age of the oldest of them.", registry=registry)
        self.lag = Gauge(
            "consumer_lag_records",
            "Records of a topic this service has not read.",
            ("topic",),
            registry=registry,
        )
        self._size = Histogram(
            "transaction_inputs", "Inputs that shared a transaction.", buckets=_SIZES, registry=registry
        )
        self._time = Histogram(
            "transaction_seconds", "From the first lock to the commit.", buckets=_SECONDS, registry=registry
        )

    @contextmanager
    def transaction(self, inputs: int) -> Iterator[None]:
        self._size.observe(inputs)
        with self._time.time():
            yield
