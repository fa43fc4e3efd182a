"""What some removals are where nothing is asked in SQL and no client of Kafka's reads: in the simulation."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import pytest

from choreo.chassis.database import tables
from choreo.chassis.database.round_trip import Later
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.inputs import Heard, Input
from choreo.chassis.transaction.journal import JournalRow, SeenInput
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.chassis.transaction.positions import TopicPartition
from choreo.chassis.transaction.transaction import Transaction, Work
from choreo.simulation import sql
from choreo.simulation.customers import Customer
from choreo.simulation.database import Session
from choreo.simulation.kafka import MemoryApp
from choreo.simulation.log import Log
from choreo.simulation.store import MemoryTransaction
from choreo.simulation.world import past_of
from tests.removals.guards import GUARDS

Patch = pytest.MonkeyPatch
Memory = MemoryTransaction[Any]


def journal_is_not_asked(patch: Patch) -> None:
    async def add_new(self: Memory, rows: Sequence[JournalRow]) -> None:
        for row in rows:
            await self.session.insert(tables.journal, row, unless_there=True)

    def nothing(self: Memory, ids: Collection[UUID]) -> Later[dict[UUID, SeenInput]]:
        return dict

    def add(self: Memory, rows: Sequence[JournalRow]) -> None:
        if rows:
            self._add("write.journal", lambda: add_new(self, rows))

    patch.setattr(MemoryTransaction, "seen", nothing)
    patch.setattr(MemoryTransaction, "add_to_journal", add)


def _sequences(self: Memory, wanted: Sequence[str]) -> Later[dict[str, int]]:
    """As they are visible now."""

    def look() -> dict[str, int]:
        rows = [self.session.visible(("keys", key)) for key in wanted]
        return {row.key: row.sequence for row in rows if row is not None}

    return self._add("keys.read", look)


def keys_are_not_locked(patch: Patch) -> None:
    def read(self: Memory, wanted: Sequence[str]) -> Later[dict[str, int]]:
        if wanted:
            self._add("keys.make", lambda: self._make_keys(sorted(wanted)))
        return _sequences(self, wanted)

    patch.setattr(MemoryTransaction, "lock_keys", read)


def numbered_before_the_lock(patch: Patch) -> None:
    lock = MemoryTransaction.lock_keys

    def read_and_lock(self: Memory, wanted: Sequence[str]) -> Later[dict[str, int]]:
        before, locked = _sequences(self, wanted), lock(self, wanted)
        return lambda: locked() | before()

    patch.setattr(MemoryTransaction, "lock_keys", read_and_lock)


def outbox_positions_are_reserved(patch: Patch) -> None:
    lock_and_load = Transaction.lock_and_load

    async def reserve_first(self: Transaction[Any], store: Any, batch: Sequence[Input]) -> Work[Any]:
        memory: Any = store
        memory.reserved = [memory._database.next_number("outbox") for _ in range(10 * len(batch))]
        return await lock_and_load(self, store, batch)

    async def add_reserved(self: Any, rows: Sequence[OutboxRow]) -> None:
        for row in rows:
            await self.session.insert(tables.outbox, replace(row, position=self.reserved.pop(0)))

    def add(self: Memory, rows: Sequence[OutboxRow]) -> None:
        if rows:
            self._add("write.outbox", lambda: add_reserved(self, rows))

    patch.setattr(Transaction, "lock_and_load", reserve_first)
    patch.setattr(MemoryTransaction, "add_to_outbox", add)


def nothing_queues_behind_the_parked(patch: Patch) -> None:
    park = Transaction._park

    def park_alone(self: Transaction[Any], work: Work[Any], heard: Heard, *why: Any) -> None:
        park(self, work, heard, *why)
        work.blocked.discard(heard.key)

    def nobody(self: Memory, wanted: Collection[str]) -> Later[set[str]]:
        return set

    patch.setattr(MemoryTransaction, "blocked", nobody)
    patch.setattr(Transaction, "_park", park_alone)


def removed_up_to_a_mark(patch: Patch) -> None:
    async def remove(session: Session, now: datetime, values: Any) -> sql.Rows:
        (positions,) = values
        rows = sql.outbox_rows(session)
        partitions = {row.partition for row in rows if row.position in positions}
        for row in rows:
            if row.position <= max(positions) and row.partition in partitions:
                await session.delete(("outbox", row.position))
        return []

    patch.setitem(sql.STATEMENTS, "outbox.remove", remove)


def failed_facts_come_later(patch: Patch) -> None:
    """As in SQL, where each process has its own memory of what it has tried."""
    lowest, removal = outbox.lowest, GUARDS["oldest-first"].take_out
    removal(patch)
    tried: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()

    async def next_ones(conn: Any, partitions: Collection[int], limit: int) -> list[OutboxRow]:
        rows = await lowest(conn, partitions, limit)
        known = tried.setdefault(conn._store, set())
        rows = [row for row in rows if row.position not in known] or rows
        known.update(row.position for row in rows)
        return rows

    patch.setattr(outbox, "lowest", next_ones)


def every_relay_owns_every_shard(patch: Patch) -> None:
    patch.setattr(sql, "is_ours_or_free", lambda row, owner, now: True)


def kafka_says_where_to_begin(patch: Patch) -> None:
    async def begin(self: MemoryApp, places: set[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self.begin_at_committed()

    patch.setattr(MemoryApp, "begin_at", begin)


def what_was_aborted_is_read(patch: Patch) -> None:
    patch.setattr(Log, "reads_committed", False)


def the_parked_are_undecided(patch: Patch) -> None:
    patch.setattr(sql, "waits_for_no_person", lambda session, row: True)


def command_ids_are_random(patch: Patch) -> None:
    patch.setattr(Customer, "_command_id", lambda self, request: uuid4())


_TWINS: Mapping[str, Callable[[Patch], None]] = {
    "journal": journal_is_not_asked,
    "key-lock": keys_are_not_locked,
    "locked-sequence": numbered_before_the_lock,
    "outbox-position": outbox_positions_are_reserved,
    "parked-queue": nothing_queues_behind_the_parked,
    "exact-removal": removed_up_to_a_mark,
    "oldest-first": failed_facts_come_later,
    "one-owner": every_relay_owns_every_shard,
    "postgres-position": kafka_says_where_to_begin,
    "read-committed": what_was_aborted_is_read,
    "parked-left-out": the_parked_are_undecided,
    "command-id": command_ids_are_random,
}


def take_out(guard: str, patch: Patch) -> None:
    """Of what the simulation plays, and of what was there before."""
    past_of.cache_clear()
    _TWINS.get(guard, GUARDS[guard].take_out)(patch)
