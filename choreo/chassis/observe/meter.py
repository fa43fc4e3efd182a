"""What the kernel, the relay and the consumer count."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

Counts = Mapping[tuple[str, ...], int]
"""By labels."""
_NONE: Counts = {}


class _Children(dict[tuple[str, ...], Counter]):
    """A counter by its labels; asking it for them each time would cost more than counting."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def __missing__(self, labels: tuple[str, ...]) -> Counter:
        child = self[labels] = self._counter.labels(*labels)
        return child


class Meter:
    """The promise's own metrics, in the registry of one service.

    Few series: types are those of our own commands and facts, never words from outside.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._commands = _Children(
            Counter(
                "choreo_commands",
                "What became of commands, by type and outcome: applied, refused, duplicate, failed.",
                ("type", "outcome"),
                registry=registry,
            )
        )
        self._heard = _Children(
            Counter(
                "choreo_facts_heard",
                "What became of records read, by type (other: not heard here) and outcome: applied, "
                "duplicate, parked, skipped, stale.",
                ("type", "outcome"),
                registry=registry,
            )
        )
        self._decided = _Children(
            Counter("choreo_facts_decided", "Facts this service decided.", ("type",), registry=registry)
        )
        self.published = Counter(
            "choreo_outbox_published_facts", "Facts acknowledged by Kafka.", registry=registry
        )
        self.unpublished = Gauge(
            "choreo_outbox_unpublished_facts",
            "Facts decided and not yet acknowledged by Kafka.",
            registry=registry,
        )
        self.unpublished_age = Gauge(
            "choreo_outbox_oldest_age_seconds", "Age of the oldest unpublished fact.", registry=registry
        )
        self.parked = Gauge(
            "choreo_parked_events", "Events that need a person or queue behind one.", registry=registry
        )
        self.parked_age = Gauge(
            "choreo_parked_oldest_age_seconds", "Since when the oldest is parked.", registry=registry
        )
        self.waiting = Gauge(
            "choreo_waiting_things", "What lacks something that is still to come.", registry=registry
        )
        self.waiting_age = Gauge(
            "choreo_waiting_oldest_age_seconds", "Age of the oldest of them.", registry=registry
        )
        self.lag = Gauge(
            "choreo_consumer_lag_records",
            "Records of a topic this service has not read.",
            ("topic",),
            registry=registry,
        )
        self._size = Histogram(
            "choreo_transaction_inputs",
            "Inputs that shared a transaction.",
            buckets=_SIZES,
            registry=registry,
        )
        self._time = Histogram(
            "choreo_transaction_duration_seconds",
            "From the first lock to the commit.",
            buckets=_SECONDS,
            registry=registry,
        )

    @contextmanager
    def transaction(self, inputs: int) -> Iterator[None]:
        self._size.observe(inputs)
        with self._time.time():
            yield

    def count(self, commands: Counts = _NONE, heard: Counts = _NONE, decided: Counts = _NONE) -> None:
        """What came of one transaction: once for all of it."""
        for counter, counts in ((self._commands, commands), (self._heard, heard), (self._decided, decided)):
            for labels, number in counts.items():
                counter[labels].inc(number)
