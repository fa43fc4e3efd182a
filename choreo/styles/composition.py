"""The ways in which the shop's services may be wired: who tells whom, over HTTP and by Kafka.

Who calls whom, and in which order, is what makes a style. What a service hears is in its description, and by
whose call in none: so each style names its services, and takes no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from choreo.chassis.installed import require_services
from choreo.chassis.registry import service_names
from choreo.errors import Unavailable, UsageError


@dataclass(frozen=True)
class Composition:
    """Where a service is called, its answer is what it has decided and the caller consumes."""

    program: str
    """The module that runs a service, whose name is its argument."""
    calls: Mapping[str, tuple[str, ...]]
    """By caller: the services it tells what it knows and they consume, in this order."""
    listeners: frozenset[str] = frozenset()
    """Who hears from Kafka instead. Where there is one, every fact goes to Kafka, too."""

    @property
    def services(self) -> frozenset[str]:
        return frozenset(self.calls).union(self.listeners, *self.calls.values())

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


def require_composition(style: str) -> None:
    """Raises `Unavailable` where a service that it wires is not installed, and where it does not wire one."""
    if style == COLLABORATION:
        return
    wired = COMPOSITIONS[style].services
    require_services(wired)
    if others := [name for name in service_names() if name not in wired]:
        raise Unavailable(
            f"Style {style} does not say who calls {' and '.join(others)}, which would hear nothing: say it "
            f"in choreo/styles/composition.py, or take style {COLLABORATION}."
        )


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
