"""The ways in which the same four services may be wired: who tells whom, over HTTP and by Kafka."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from choreo.errors import UsageError


@dataclass(frozen=True)
class Composition:
    """Where a service is called, its answer is what it has decided and the caller consumes."""

    program: str
    """The module that runs a service, whose name is its argument."""
    calls: Mapping[str, tuple[str, ...]]
    """By caller: the services it tells what it knows and they consume, in this order."""
    listeners: frozenset[str] = frozenset()
    """Who hears from Kafka instead. Where there is one, every fact goes to Kafka, too."""

    def callers_of(self, service: str) -> frozenset[str]:
        return frozenset(caller for caller, callees in self.calls.items() if service in callees)


COMPOSITIONS = {
    "http": Composition(
        program="choreo.styles.http",
        calls={"user": ("billing", "order", "notification"), "order": ("billing", "notification")},
    ),
    "notifications": Composition(
        program="choreo.styles.notifications",
        calls={"user": ("billing", "order"), "order": ("billing",)},
        listeners=frozenset({"notification"}),
    ),
}
COLLABORATION = "collaboration"
"""The product: each service is its own program, and nobody calls anybody."""

STYLES = (*COMPOSITIONS, COLLABORATION)


def require_style(name: str) -> None:
    """Raises `UsageError`."""
    if name not in STYLES:
        raise UsageError(f"{name!r} is no style: choose one of {', '.join(STYLES)}.")


def has_kafka(style: str) -> bool:
    return style == COLLABORATION or bool(COMPOSITIONS[style].listeners)


def hears_from_kafka(style: str, service: str) -> bool:
    return style == COLLABORATION or service in COMPOSITIONS[style].listeners


def digest_of(credential: str) -> str:
    """By which a service knows who calls, without being able to call in its name."""
    return sha256(credential.encode()).hexdigest()


def one_process_each(style: str) -> str:
    """Why there are no more."""
    return f"In style {style} there is one process of each service: only style {COLLABORATION} has several."
