"""A fact, a value and a key in a few words, for people."""

from collections.abc import Mapping
from typing import Any

from choreo.message.catalog import FACT_OF_TYPE
from choreo.replay.sources.rows import plain

_SHORT = 40


def telling(type: str, data: Mapping[str, Any]) -> str:
    """Writes the fields that tell a fact's story, as the fact declares them."""
    fact = FACT_OF_TYPE.get(type)
    told = {name: data.get(name) for name in (fact.TELLS if fact else ())}
    return ", ".join(f"{name} {cut_off(shown(value))}" for name, value in told.items() if value is not None)


def whose(key: str, *, whole: bool = False) -> str:
    """Writes a key, as briefly as one may ask for it; the key of most is a user's id."""
    return f"user {key if whole else key[:8]}" if "-" in key else f"key {key}"


def shown(value: Any) -> str:
    return "null" if value is None else str(plain(value)).replace("\n", "⏎")


def cut_off(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"
