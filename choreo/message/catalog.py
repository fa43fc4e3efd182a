"""Every fact this program knows, by its type. A module of facts says whose they are: `publishes`."""

from choreo.message.fact import Fact

FACT_OF_TYPE: dict[str, type[Fact]] = {}
SOURCE_OF_TYPE: dict[str, str] = {}
"""The service that alone decides it."""


def topic_of(service: str) -> str:
    """That it alone writes; without the installation's prefix."""
    return f"{service}-events"


def publishes(service: str, *facts: type[Fact]) -> None:
    """Says that this service, and no other, decides these facts. Safe to repeat."""
    for fact in facts:
        name = fact.__name__
        if FACT_OF_TYPE.get(name, fact) is not fact:
            raise ValueError(
                f"two facts are called {name}: {FACT_OF_TYPE[name].__module__}, {fact.__module__}"
            )
        FACT_OF_TYPE[name] = fact
        SOURCE_OF_TYPE[name] = service


def published_by(service: str) -> tuple[type[Fact], ...]:
    """In the order in which they were named."""
    return tuple(fact for name, fact in FACT_OF_TYPE.items() if SOURCE_OF_TYPE[name] == service)
