"""The guards of the delivery promise, each with a way to take it out of this process.

What is left without a guard is no wreck: it is what a plausible design without that thought would do. So
whatever then goes wrong is what the guard is there for. `docs/delivery.md` lists them; `--without GUARD`
takes one out before any test is read.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import pytest
from aiokafka.errors import KafkaError

from billing_service import decide as billing
from billing_service.commands import DecidePayment
from billing_service.state import Billing
from choreo.chassis.database import tables as chassis_tables
from choreo.chassis.database.connection import Connection
from choreo.chassis.database.round_trip import Later, RoundTrip, Statement
from choreo.chassis.database.rows import _statement, array_type
from choreo.chassis.http import routes
from choreo.chassis.kafka import consumer, faust_internals
from choreo.chassis.kafka.catch_up import CatchUp
from choreo.chassis.kafka.consumer import Consumer
from choreo.chassis.kafka.handover import Handover, Unread
from choreo.chassis.kafka.relay import Relay, _Shard
from choreo.chassis.kafka.topic_log import compare_last_read
from choreo.chassis.transaction import journal, keys, outbox, parked, step, transaction
from choreo.chassis.transaction.inputs import Asked, Failed, Heard, Input
from choreo.chassis.transaction.kernel import Kernel, _resolve
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.chassis.transaction.positions import Expected
from choreo.chassis.transaction.store import PostgresTransaction
from choreo.chassis.transaction.transaction import Transaction, Work
from choreo.message.decider import Decision
from choreo.message.fact import Fact
from events.billing import PaymentRejected
from notification_service import evolve as notifications
from notification_service.leases import Leases, Mail
from notification_service.letters import letter
from notification_service.mailer import Mailer
from notification_service.smtp import ServerAway, Session
from order_service import api as orders
from order_service import queries
from order_service.admission import Admission
from tests.shop import PARTITIONS
from user_service import api as users

Patch = pytest.MonkeyPatch
Postgres = PostgresTransaction[Any]

KERNEL = "tests/component/test_kernel.py"
RELAY = "tests/component/test_relay.py"
CONSUMER = "tests/choreography/test_consumer.py"
POSITIONS = "tests/choreography/test_positions.py"
ON_KAFKA = (RELAY, CONSUMER, POSITIONS)


@dataclass(frozen=True)
class Guard:
    name: str
    take_out: Callable[[Patch], None]
    noticed_by: str
    """A test that fails without it."""

    @property
    def without(self) -> str:
        """What happens instead, in a sentence."""
        return (self.take_out.__doc__ or "").strip()


def take_out(name: str) -> None:
    """For the rest of this process."""
    if name not in GUARDS:
        raise pytest.UsageError(f"there is no guard {name!r}, only {', '.join(GUARDS)}")
    GUARDS[name].take_out(Patch())


# Every input takes effect exactly once.


def journal_is_not_asked(patch: Patch) -> None:
    """Nothing was ever seen before; writing it down once more is no error."""

    known, columns = _statement(chassis_tables.journal, False)
    add_new = Statement(f"{known.text} ON CONFLICT DO NOTHING")

    def nothing(trip: RoundTrip, ids: Collection[UUID]) -> Later[dict[UUID, journal.SeenInput]]:
        return dict

    def add(trip: RoundTrip, entries: Sequence[journal.JournalRow]) -> None:
        if entries:
            trip.add(add_new, *columns(entries))

    patch.setattr(journal, "seen", nothing)
    patch.setattr(journal, "add", add)


def batch_forgets(patch: Patch) -> None:
    """What a batch holds twice is decided twice in it."""
    record = Transaction._record

    def forget(self: Transaction[Any], work: Work[Any], input: Input, entry: journal.JournalRow) -> None:
        record(self, work, input, entry)
        del work.seen[input.id]

    patch.setattr(Transaction, "_record", forget)


def any_offset_is_the_next(patch: Patch) -> None:
    """Every record is taken for the next of its partition."""
    take_heard = Transaction._take_heard

    def take(self: Transaction[Any], work: Work[Any], heard: Heard) -> None:
        work.expected[heard.place] = Expected(heard.offset, -1)
        take_heard(self, work, heard)

    patch.setattr(Transaction, "_take_heard", take)


def position_is_committed_first(patch: Patch) -> None:
    """The position is committed, then what was read is handled."""
    write = Transaction.write

    async def advance_and_write(self: Transaction[Any], store: Postgres, work: Work[Any]) -> None:
        store.advance_positions(work.advanced)
        await store.commit()
        await write(self, store, work)

    patch.setattr(Transaction, "write", advance_and_write)


def kafka_says_where_to_begin(patch: Patch) -> None:
    """A session of the consumer begins where its group has committed, or else at the first record."""
    make = faust_internals._ConsumerThread._create_worker_consumer

    def begin_at_the_first(self: Any, transport: Any) -> Any:
        made = make(self, transport)
        made._auto_offset_reset = "earliest"
        return made

    patch.setattr(faust_internals._ConsumerThread, "_create_worker_consumer", begin_at_the_first)
    patch.delattr(faust_internals._Consumer, "seek_to_committed")


async def _nothing(*args: Any) -> None: ...


def what_was_read_is_not_compared(patch: Patch) -> None:
    """A position is a number: whichever record has that offset now, the next one is read."""
    patch.setattr(Consumer, "_check_end", _nothing)
    patch.setattr(consumer, "compare_last_read", _nothing)


def new_leaders_are_not_noticed(patch: Patch) -> None:
    """Whether the log was cut is looked at when a service first begins to read, and not again."""
    # Neither when the group is divided anew: that may happen at any time where a broker was away.
    begun: set[str] = set()

    async def compare_once(service: str, *args: Any) -> None:
        if service not in begun:
            begun.add(service)
            await compare_last_read(service, *args)

    patch.setattr(Consumer, "_check_end", _nothing)
    patch.setattr(consumer, "compare_last_read", compare_once)


def holes_in_the_reading_are_passed(patch: Patch) -> None:
    """Whatever lies before a record was read, or there was nothing."""
    init = Heard.__init__

    def from_anywhere(self: Heard, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs | {"fetched_from": 0})

    patch.setattr(Heard, "__init__", from_anywhere)


def whatever_is_next_follows(patch: Patch) -> None:
    """What has the next offset is next, whatever lies before it."""
    patch.setattr(transaction, "_matches", lambda heard, fetched_from, read: True)


def what_was_aborted_is_read(patch: Patch) -> None:
    """Records of transactions that were aborted are records."""
    make = faust_internals._ConsumerThread._create_worker_consumer

    def read_all(self: Any, transport: Any) -> Any:
        made = make(self, transport)
        made._isolation_level = "read_uncommitted"
        return made

    patch.setattr(faust_internals._ConsumerThread, "_create_worker_consumer", read_all)


def nobody_watches_the_session(patch: Patch) -> None:
    """A session that reads nothing is trusted to read on some day."""
    patch.setattr(Unread, "look", lambda self, known, there, group: 0)


def command_ids_are_random(patch: Patch) -> None:
    """A request gets a new command id each time it comes."""
    patch.setattr(routes, "derived_id", random_id)


def decisions_have_random_ids(patch: Patch) -> None:
    """Deciding the same again gives events, payments, accounts and notifications other ids."""
    for module in (step, billing):
        patch.setattr(module, "event_id", random_id)
    for other in (billing, orders, users, notifications):
        patch.setattr(other, "derived_id", random_id)


def random_id(*parts: object) -> UUID:
    return uuid4()


# Told only once it is committed, published if and only if it was.


def outbox_beside_the_transaction(patch: Patch) -> None:
    """Facts go into the outbox after the commit, in a transaction of their own."""
    write = Transaction.write

    async def write_twice(self: Transaction[Any], store: Postgres, work: Work[Any]) -> None:
        facts, work.unpublished = work.unpublished, []
        await write(self, store, work)
        await store.commit()
        store.add_to_outbox(facts)
        work.unpublished = facts

    patch.setattr(Transaction, "write", write_twice)


def answered_when_decided(patch: Patch) -> None:
    """Whoever asked over HTTP is answered as soon as it is decided."""
    write = Transaction.write

    async def answer_and_write(self: Transaction[Any], store: Postgres, work: Work[Any]) -> None:
        for input, answer in work.answers:
            if isinstance(input, Asked):
                _resolve(input, answer)
        await write(self, store, work)

    patch.setattr(Transaction, "write", answer_and_write)


def acknowledged_when_taken(patch: Patch) -> None:
    """A record is acknowledged to Kafka as soon as the kernel has it."""

    take = Handover.take

    def take_and_acknowledge(self: Handover, place: Any, chunk: Any, partition: Any) -> None:
        take(self, place, chunk, partition)
        self._app.acknowledge(place, chunk.end)

    patch.setattr(Handover, "take", take_and_acknowledge)


# One key, one order.


def keys_are_not_locked(patch: Patch) -> None:
    """The rows of the keys are read, not locked."""
    patch.setattr(keys, "_LOCK", Statement(keys._LOCK.text.replace("FOR UPDATE", "")))


def loaded_before_the_lock(patch: Patch) -> None:
    """State is loaded first and the keys are locked then."""
    lock_and_load, load = Transaction.lock_and_load, Transaction._load
    loaded: WeakKeyDictionary[Postgres, dict[str, Any]] = WeakKeyDictionary()

    async def load_and_lock(self: Transaction[Any], store: Postgres, batch: Sequence[Input]) -> Work[Any]:
        states = load(self, store, batch)
        await store.send()
        loaded[store] = states()
        return await lock_and_load(self, store, batch)

    def as_loaded(self: Transaction[Any], store: Postgres, inputs: Sequence[Input]) -> Later[dict[str, Any]]:
        states = loaded.pop(store)
        return lambda: states

    patch.setattr(Transaction, "lock_and_load", load_and_lock)
    patch.setattr(Transaction, "_load", as_loaded)


def numbered_before_the_lock(patch: Patch) -> None:
    """A key's sequence is read first and its row is locked then."""
    lock = keys.lock
    read = Statement("SELECT key, sequence FROM keys WHERE key = ANY($1::text[])")

    def read_and_lock(trip: RoundTrip, wanted: Sequence[str]) -> Later[dict[str, int]]:
        before = trip.add(read, wanted)
        sequences = lock(trip, wanted)
        return lambda: sequences() | dict(before)

    patch.setattr(keys, "lock", read_and_lock)


def outbox_positions_are_reserved(patch: Patch) -> None:
    """Positions in the outbox are drawn when a transaction begins, before anything is locked."""
    lock_and_load = Transaction.lock_and_load
    reserved: WeakKeyDictionary[Connection, list[int]] = WeakKeyDictionary()
    columns = chassis_tables.outbox.columns
    arrays = [f"${number}::{array_type(column)}[]" for number, column in enumerate(columns, 1)]
    insert = Statement(
        f"INSERT INTO outbox ({', '.join(columns.keys())}) OVERRIDING SYSTEM VALUE"
        f" SELECT * FROM unnest({', '.join(arrays)})"
    )

    async def reserve_first(self: Transaction[Any], store: Postgres, batch: Sequence[Input]) -> Work[Any]:
        found = await store.conn.execute(
            "SELECT nextval(pg_get_serial_sequence('outbox', 'position')) FROM generate_series(1, %s)",
            [10 * len(batch)],
        )
        reserved[store.conn] = [position for (position,) in await found.fetchall()]
        return await lock_and_load(self, store, batch)

    def add(trip: RoundTrip, facts: Sequence[OutboxRow]) -> None:
        if facts:
            placed = [replace(fact, position=reserved[trip._conn].pop(0)) for fact in facts]
            trip.add(insert, *([getattr(fact, column.name) for fact in placed] for column in columns))

    patch.setattr(Transaction, "lock_and_load", reserve_first)
    patch.setattr(outbox, "add", add)


def names_share_a_batch(patch: Patch) -> None:
    """Commands that want the same name are decided in one batch, from one look at who has it."""

    def take(self: Kernel[Any]) -> list[Input]:
        batch = [input for input in self._queue if not input.done.done()]
        self._queue.clear()
        self._room.set()
        return batch

    patch.setattr(Kernel, "_take", take)


# What cannot go on now.


def unknown_customers_are_rejected(patch: Patch) -> None:
    """Billing rejects an order at once if it does not know the account."""
    decide = billing._decide_payment

    def decide_at_once(command: DecidePayment, state: Billing) -> Decision:
        if state.account is not None:
            return decide(command, state)
        payment = state.payments[command.order_id]
        rejected: list[Fact] = [
            PaymentRejected(
                order_id=payment.order_id,
                user_id=payment.user_id,
                amount=payment.amount,
                reason="insufficient_funds",
                balance=0,
            )
        ]
        return rejected

    patch.setattr(billing, "_decide_payment", decide_at_once)


def deadlines_wait_for_nothing(patch: Patch) -> None:
    """An order expires as soon as its time is up, whatever has not been heard yet."""

    async def everything(self: CatchUp, seconds: float) -> frozenset[int]:
        return frozenset(range(PARTITIONS))

    patch.setattr(CatchUp, "read", everything)


def nothing_queues_behind_the_parked(patch: Patch) -> None:
    """Later events of a key go on while an earlier one is parked."""

    def nobody(trip: RoundTrip, keys: Collection[str]) -> Later[set[str]]:
        return set

    park = Transaction._park

    def park_alone(self: Transaction[Any], work: Work[Any], heard: Heard, *why: Any) -> None:
        park(self, work, heard, *why)
        work.blocked.discard(heard.key)

    patch.setattr(parked, "blocked", nobody)
    patch.setattr(Transaction, "_park", park_alone)


def rejected_together(patch: Patch) -> None:
    """When the database rejects a batch, all of it is rejected."""

    async def give_up(self: Kernel[Any], batch: list[Input], error: Exception) -> None:
        for input in batch:
            if isinstance(input, Asked):
                _resolve(input, Failed(str(error)))
            else:
                input.rejected = error
        await self._finish([input for input in batch if isinstance(input, Heard)])

    patch.setattr(Kernel, "_isolate", give_up)


# From the outbox to Kafka.


def removed_up_to_a_mark(patch: Patch) -> None:
    """The outbox is emptied up to the highest acknowledged position of these partitions."""
    remove = """DELETE FROM outbox WHERE position <= %s
    AND partition IN (SELECT partition FROM outbox WHERE position = ANY(%s))"""

    async def remove_up_to(conn: Connection, positions: Sequence[int]) -> None:
        await conn.execute(remove, [max(positions), list(positions)])

    patch.setattr(outbox, "remove", remove_up_to)


def removed_when_sent(patch: Patch) -> None:
    """A row leaves the outbox when it is sent, not when Kafka has acknowledged it."""
    lowest = outbox.lowest

    async def read_and_remove(conn: Connection, partitions: Collection[int], limit: int) -> list[OutboxRow]:
        rows = await lowest(conn, partitions, limit)
        await outbox.remove(conn, [row.position for row in rows])
        return rows

    patch.setattr(outbox, "lowest", read_and_remove)


def every_relay_owns_every_shard(patch: Patch) -> None:
    """A lease is given to every relay that asks."""
    mine_or_free = "AND (owner = %(owner)s OR leased_until < clock_timestamp())"
    assert mine_or_free in outbox._LEASE
    patch.setattr(outbox, "_LEASE", outbox._LEASE.replace(mine_or_free, ""))


def failed_facts_come_later(patch: Patch) -> None:
    """After an error the relay goes on with the next facts and comes back to these when there are no more."""
    lowest = outbox.lowest
    tried: set[int] = set()

    async def next_ones(conn: Connection, partitions: Collection[int], limit: int) -> list[OutboxRow]:
        rows = await lowest(conn, partitions, limit)
        rows = [row for row in rows if row.position not in tried] or rows
        tried.update(row.position for row in rows)
        return rows

    async def send_once(self: _Shard, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        try:
            return rows[: await self._producer.send(rows)]
        except KafkaError:
            return ()

    patch.setattr(outbox, "lowest", next_ones)
    patch.setattr(_Shard, "_send", send_once)


def partitions_are_sent_together(patch: Patch) -> None:
    """The next facts are read when every partition has acknowledged the last ones."""
    round = Relay._round

    async def wait_for_all(self: Relay, conn: Connection) -> bool:
        sending = [shard.sending for shard in self._shards.values() if shard.sending]
        if sending:
            await asyncio.wait(sending)
        return await round(self, conn)

    patch.setattr(Relay, "_round", wait_for_all)


# What goes wrong stays as small as it is.


def a_mail_is_everybodys(patch: Patch) -> None:
    """What one mail raises is taken for the server's trouble."""

    async def deliver(self: Mailer, session: Session, mail: Mail) -> bool | None:
        content = letter(mail.id, mail.email, mail.subject, mail.text, eight_bit=True)
        try:
            return await self._server.take(session, content, mail.email, mail.timeout_seconds)
        except Exception as error:
            raise ServerAway(str(error)) from error

    patch.setattr(Mailer, "_deliver", deliver)


def outcomes_are_forgotten(patch: Patch) -> None:
    """A mail whose outcome could not be recorded is mailed again when its lease is over."""

    put_off = Leases.put_off
    patch.setattr(Leases, "put_off", lambda self, mail, delivered: put_off(self, mail, None))


def the_parked_are_undecided(patch: Patch) -> None:
    """Orders of parked customers count as undecided like all others."""
    but_for_them = "AND NOT EXISTS (SELECT FROM parked WHERE key = user_id::text)"
    assert but_for_them in queries._UNDECIDED_SINCE
    patch.setattr(queries, "_UNDECIDED_SINCE", queries._UNDECIDED_SINCE.replace(but_for_them, ""))


def a_shut_door_is_shut(patch: Patch) -> None:
    """While others are undecided for too long no order is let in."""
    admits = Admission.admits

    def admits_no_probe(self: Admission, key: str) -> bool:
        self._probed_at = None
        return admits(self, key)

    patch.setattr(Admission, "admits", admits_no_probe)


BILLING = "tests/component/test_billing.py"
MAILER = "tests/component/test_notification.py"
ADMISSION = "tests/component/test_admission.py"

_ALL = (
    Guard(
        "journal",
        journal_is_not_asked,
        f"{KERNEL}::test_a_whole_topic_again_changes_nothing",
    ),
    Guard(
        "batch-repeat",
        batch_forgets,
        f"{KERNEL}::test_a_repeat_within_a_batch_is_recognised_before_the_database_refuses_it",
    ),
    Guard("next-offset", any_offset_is_the_next, f"{KERNEL}::test_a_gap_is_refused_and_writes_nothing"),
    Guard(
        "position-with-effect",
        position_is_committed_first,
        f"{KERNEL}::test_what_is_decided_is_committed_together_and_only_then_told[journal]",
    ),
    Guard(
        "postgres-position",
        kafka_says_where_to_begin,
        f"{CONSUMER}::test_reading_begins_where_postgres_says_whatever_kafka_was_told",
    ),
    Guard(
        "position-identity",
        what_was_read_is_not_compared,
        f"{POSITIONS}::test_a_log_that_was_cut_and_has_grown_again_is_not_read",
    ),
    Guard(
        "new-leader",
        new_leaders_are_not_noticed,
        f"{POSITIONS}::test_a_log_that_is_cut_while_it_is_read_is_not_read_on",
    ),
    Guard(
        "hole-in-reading",
        holes_in_the_reading_are_passed,
        f"{KERNEL}::test_a_hole_in_the_log_is_passed_and_one_in_the_reading_is_not",
    ),
    Guard(
        "log-matching",
        whatever_is_next_follows,
        f"{KERNEL}::test_what_a_log_grows_after_a_cut_is_not_taken_for_what_was_read",
    ),
    Guard(
        "read-committed",
        what_was_aborted_is_read,
        f"{POSITIONS}::test_offsets_without_a_record_are_passed_and_what_was_aborted_is_not_applied"
        "[with a marker]",
    ),
    Guard(
        "reading-watched",
        nobody_watches_the_session,
        f"{CONSUMER}::test_who_has_left_the_group_for_want_of_a_fetch_comes_back",
    ),
    Guard(
        "command-id",
        command_ids_are_random,
        f"{BILLING}::test_the_same_request_again_gets_the_same_answer",
    ),
    Guard(
        "derived-id",
        decisions_have_random_ids,
        f"{KERNEL}::test_ids_and_bytes_are_derived_from_the_inputs",
    ),
    Guard(
        "outbox-in-transaction",
        outbox_beside_the_transaction,
        f"{KERNEL}::test_what_is_decided_is_committed_together_and_only_then_told[outbox]",
    ),
    Guard(
        "answer-after-commit",
        answered_when_decided,
        f"{KERNEL}::test_what_is_decided_is_committed_together_and_only_then_told[positions]",
    ),
    Guard(
        "acknowledge-after-commit",
        acknowledged_when_taken,
        f"{CONSUMER}::test_a_record_is_acknowledged_to_kafka_only_after_its_commit",
    ),
    Guard(
        "key-lock",
        keys_are_not_locked,
        f"{KERNEL}::test_what_is_decided_from_is_not_older_than_the_lock",
    ),
    Guard(
        "lock-before-load",
        loaded_before_the_lock,
        f"{KERNEL}::test_what_is_decided_from_is_not_older_than_the_lock",
    ),
    Guard(
        "locked-sequence",
        numbered_before_the_lock,
        f"{KERNEL}::test_what_is_decided_from_is_not_older_than_the_lock",
    ),
    Guard(
        "outbox-position",
        outbox_positions_are_reserved,
        f"{KERNEL}::test_what_goes_out_first_was_decided_first_whoever_began_first",
    ),
    Guard(
        "names-apart",
        names_share_a_batch,
        f"{KERNEL}::test_whoever_wants_the_same_name_is_decided_after_the_other_not_beside",
    ),
    Guard(
        "waiting",
        unknown_customers_are_rejected,
        "tests/unit/test_billing.py::test_an_order_before_its_account_waits",
    ),
    Guard(
        "catch-up",
        deadlines_wait_for_nothing,
        "tests/component/test_expiry.py"
        "::test_an_order_that_was_decided_in_time_does_not_expire_however_late_that_is_heard",
    ),
    Guard(
        "parked-queue",
        nothing_queues_behind_the_parked,
        f"{KERNEL}::test_what_is_no_event_is_parked_and_its_key_queues_behind_it",
    ),
    Guard("halving", rejected_together, f"{KERNEL}::test_what_the_database_refuses_stands_alone"),
    Guard(
        "exact-removal",
        removed_up_to_a_mark,
        f"{RELAY}::test_a_fact_that_is_committed_after_younger_ones_were_published_is_published_too",
    ),
    Guard(
        "removal-after-acknowledgement",
        removed_when_sent,
        f"{RELAY}::test_a_fact_stays_in_the_outbox_until_kafka_has_acknowledged_it",
    ),
    Guard("one-owner", every_relay_owns_every_shard, f"{RELAY}::test_one_relay_at_a_time_owns_a_partition"),
    Guard(
        "oldest-first",
        failed_facts_come_later,
        f"{RELAY}::test_after_an_error_the_same_facts_come_first_again",
    ),
    Guard(
        "partitions-apart",
        partitions_are_sent_together,
        f"{RELAY}::test_a_partition_whose_batch_is_on_its_way_keeps_no_other_from_its_next",
    ),
    Guard(
        "mails-apart",
        a_mail_is_everybodys,
        f"{MAILER}::test_one_mail_that_does_not_go_out_holds_up_no_other[hangs-up-pipelined]",
    ),
    Guard(
        "kept-outcome",
        outcomes_are_forgotten,
        f"{MAILER}::test_a_mail_whose_outcome_cannot_be_recorded_is_not_mailed_again",
    ),
    Guard(
        "parked-left-out",
        the_parked_are_undecided,
        f"{ADMISSION}::test_orders_of_a_parked_customer_do_not_shut_the_shop",
    ),
    Guard(
        "door-probe",
        a_shut_door_is_shut,
        f"{ADMISSION}::test_a_shut_door_lets_an_order_in_now_and_then",
    ),
)
GUARDS = {guard.name: guard for guard in _ALL}
