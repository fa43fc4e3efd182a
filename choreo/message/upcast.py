"""Facts of older versions, lifted to today's on reading, live and in replay alike.

An upcaster takes the data of one version and gives the data of the next. When `PaymentConfirmed`
becomes version 2, its model says `VERSION = 2` and an upcaster from version 1 stands beside the model:
docs/changing-an-event.md.
"""

from collections.abc import Callable
from typing import Any

Data = dict[str, Any]

UPCASTERS: dict[tuple[str, int], Callable[[Data], Data]] = {}
"""By type and the version it lifts from."""


def upcast(type: str, version: int, data: Data, to: int) -> Data:
    """Raises KeyError where a step on the way is missing."""
    for step in range(version, to):
        data = UPCASTERS[type, step](data)
    return data
