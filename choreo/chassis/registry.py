"""The services as today's code describes them, and the facts that come with them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from choreo.chassis.installed import entry_point, imported, named, package_of
from choreo.chassis.service import Follow, Service
from choreo.chassis.settings import Settings
from choreo.errors import Unavailable
from choreo.message.catalog import FACT_OF_TYPE, topic_of
from choreo.message.envelope import Event, derived_id
from choreo.message.fact import Fact

CONSOLE_PORT_OFFSET = 5
_PORT_OFFSETS: frozenset[int] = frozenset(range(1, 25)) - {CONSOLE_PORT_OFFSET}
"""25 is the mail's."""


@lru_cache(maxsize=1)
def service_names() -> tuple[str, ...]:
    """In the order of their ports. Raises `Unavailable` where there is none, or one cannot be told."""
    found = named()
    if not found:
        raise Unavailable(
            "There is no service here: install one beside choreo, or run this where it can be imported."
        )
    at: dict[int, list[str]] = {}
    for name in found:
        at.setdefault(description_of(name).port_offset, []).append(name)
    for offset, there in at.items():
        if offset not in _PORT_OFFSETS or len(there) > 1:
            free = _first_free(at.keys())
            raise Unavailable(
                f"{' and '.join(there)} cannot have port offset {offset}: each service needs one of its own, "
                f"of 1 to 24 but 5; port_offset={free} in its service.py is free."
            )
    return tuple(name for _, (name,) in sorted(at.items()))


def free_port_offset() -> int:
    """For a further service. Raises `Unavailable` where there are as many as there are ports for."""
    return _first_free(service.port_offset for service in descriptions().values())


def _first_free(taken: Iterable[int]) -> int:
    if free := _PORT_OFFSETS.difference(taken):
        return min(free)
    raise Unavailable(
        f"One system has ports for {len(_PORT_OFFSETS)} services, and all are taken: uninstall one."
    )


def all_topics(prefix: str = "") -> list[str]:
    """Of all services, in their order."""
    return [prefix + topic_of(name) for name in service_names()]


def service_of(name: str, settings: Settings) -> Service[Any]:
    """As today's code describes it. Raises `Unavailable` where it is not installed."""
    entry = entry_point(name)
    describe = getattr(imported(entry.module), entry.attr or "", None)
    if not callable(describe):
        raise Unavailable(
            f"The entry point {name} names {entry.value}, and there is no such function: correct it in "
            "pyproject.toml and install it again."
        )
    described: Service[Any] = describe(settings)
    if described.name != name:
        raise Unavailable(
            f"The entry point {name} describes the {described.name} service: give both one name, in "
            f"pyproject.toml or in {package_of(name)}."
        )
    return described


def services(settings: Settings) -> dict[str, Service[Any]]:
    """By name, in the order of their ports. Raises `Unavailable` where there is none."""
    return {name: service_of(name, settings) for name in service_names()}


def own_settings(settings: Settings) -> dict[str, dict[str, Any]]:
    """What each service's decisions depend on, beside what it is asked and hears; of those that have any."""
    told = {name: service.settings.model_dump(mode="json") for name, service in services(settings).items()}
    return {name: own for name, own in told.items() if own}


def description_of(name: str) -> Service[Any]:
    """For what is the same whatever the settings are. Raises `Unavailable` where it is not installed."""
    return service_of(name, Settings.model_construct())


def descriptions() -> dict[str, Service[Any]]:
    """All of them, in the order of their ports."""
    return {name: description_of(name) for name in service_names()}


def follows() -> dict[tuple[str, str], Follow]:
    """By service and the type of what it hears."""
    return {
        (name, follow.heard.__name__): follow
        for name, service in descriptions().items()
        for follow in service.follows
    }


def port_of(service: str, settings: Settings) -> int:
    """All its processes share it."""
    return settings.port_base + service_of(service, settings).port_offset


def own_port_of(service: str, settings: Settings, replica: int = 1) -> int:
    """Where the n-th process of a service, counted from 1, answers for itself."""
    return port_of(service, settings) + 100 * replica


def load_facts() -> None:
    """Makes every fact of every installed service known, for whoever reads what services wrote."""
    for entry in named().values():
        imported(entry.module)


def examples() -> dict[str, Event[Fact]]:
    """By type: from the story in the module `examples` beside the facts, or as their service describes it."""
    load_facts()
    packages = {import_module(fact.__module__).__package__ for fact in FACT_OF_TYPE.values()}
    beside = [f"{name}.examples" for name in sorted(filter(None, packages))]
    told = [import_module(name) for name in beside if find_spec(name)]
    alone = [_as_event(name, fact) for name, there in descriptions().items() for fact in there.examples]
    return {event.type: event for event in (*alone, *(event for module in told for event in module.story()))}


def _as_event(service: str, fact: Fact) -> Event[Fact]:
    """At the root of a flow of its own; the same each time, so that documents do not change."""
    id = derived_id("example", type(fact).__name__)
    return Event(
        id=id,
        source=service,
        time=datetime(2026, 11, 23, 12, tzinfo=UTC),
        key=fact.key,
        sequence=1,
        correlation_id=id,
        causation_id=None,
        trace_id=id.hex,
        data=fact,
    )
