"""What must hold at every moment, looked at with every commit; and what the judge of chaos does not ask."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson

from choreo.chaos.judge import Violation
from choreo.chassis.transaction.positions import TopicPartition
from choreo.simulation.database import Database, Name
from choreo.simulation.log import Log

_DIGITS = 6
"""Of a second: what clocks tell apart."""


class Watch:
    """Of all databases. `breach` is told a promise and a sentence."""

    def __init__(self, log: Log, breach: Callable[[str, str], None]) -> None:
        self._log = log
        self._breach = breach

    def commit(self, service: str, database: Database, written: Mapping[Name, Any]) -> None:
        """What a transaction wrote, before anybody sees it."""
        for promise, text in self._breaches(database, written):
            self._breach(promise, f"{service}: {text}")

    def acknowledged(self, service: str, database: Database, place: TopicPartition, offset: int) -> None:
        """To Kafka, up to this offset."""
        row = database.committed["positions"].get(("positions", *place))
        if row is None or row.next_offset < offset:
            self._breach("I7", f"{service} has acknowledged {place[0]}[{place[1]}] before it was committed")

    def _breaches(self, database: Database, written: Mapping[Name, Any]) -> Iterator[tuple[str, str]]:
        for name, row in written.items():
            before = database.committed[name[0]].get(name)
            match name[0]:
                case "positions" if before is not None:
                    yield from self._reads_on(before, row)
                case "keys" if before is not None and row.sequence < before.sequence:
                    yield "I8", f"key {row.key} went back from {before.sequence} to {row.sequence}"
                case "journal" if before is None and row.kind == "fact" and row.outcome == "applied":
                    if any(parked.key == row.key for parked in database.rows("parked")):
                        yield (
                            "I8",
                            f"{row.type} of {row.key} was applied before an earlier one that is parked",
                        )

    def _reads_on(self, before: Any, row: Any) -> Iterator[tuple[str, str]]:
        """What was read is always the beginning of one log, however that was cut meanwhile."""
        place = f"{row.topic}[{row.partition}]"
        if row.next_offset < before.next_offset:
            yield "I8", f"{place} went back from {before.next_offset} to {row.next_offset}"
        log = self._log.partitions[row.place]
        if row.last_offset == before.last_offset or (log.has_been_cut and before.last_offset < log.begin):
            return  # nothing is left of it by which anybody could tell
        known = log.was_before
        found = {row.last_digest}
        for offset in range(row.last_offset, before.next_offset - 1, -1):
            found = {one for digest in found for one in known.get((offset, digest), ())} or found
        if before.last_digest not in found:
            yield (
                "I8",
                (
                    f"{place} was read on at {row.last_offset} after a record at {before.last_offset} "
                    "that does not stand before it"
                ),
            )


def out_of_turn(log: Log, begin: datetime, *, clocks_agree: bool) -> Iterator[Violation]:
    """An order is not rejected before its account is there, nor cancelled although it was decided in time."""
    accounts: set[bytes | None] = set()
    answered: dict[str, float] = {}
    for type_, key, data, time in _facts(log, "billing-events"):
        if type_ == "AccountCreated":
            accounts.add(key)
        if type_ == "PaymentRejected" and data["reason"] == "insufficient_funds" and key not in accounts:
            yield Violation("I2", f"order {data['order_id']} is rejected before its account is there")
        if type_ == "PaymentConfirmed" or data.get("reason") == "insufficient_funds":
            answered.setdefault(data["order_id"], time)
    due: dict[str, float] = {}
    for type_, _, data, _ in _facts(log, "order-events"):
        if type_ == "OrderCreated":
            due[data["order_id"]] = (datetime.fromisoformat(data["decide_by"]) - begin).total_seconds()
        if type_ == "OrderCancelled" and data["reason"] == "expired" and clocks_agree:
            order = data["order_id"]
            if order in answered and round(answered[order], _DIGITS) < due.get(order, 0.0):
                yield Violation("I2", f"order {order} is cancelled as expired, and was decided in time")


def _facts(log: Log, topic: str) -> Iterator[tuple[str, bytes | None, Any, float]]:
    """Type, key, data and the simulated time at which each was appended, in a partition's order."""
    for place in log.places:
        for placed in log.partitions[place].placed if place[0] == topic else ():
            if type_ := dict(placed.headers).get("ce_type"):
                yield type_.decode(), placed.key, orjson.loads(placed.value or b""), placed.time
