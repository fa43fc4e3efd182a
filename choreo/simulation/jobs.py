"""The jobs beside the kernel, as models: relay, mailer and timers keep to the rules of the real ones.

The real ones ask Postgres in SQL and talk to Kafka and a mail server, so they do not run here. See the page
on what is simulated and what is not.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import psycopg

from choreo.chassis.transaction.inputs import Decided, Failed, Unavailable
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.message.decider import Command
from choreo.message.envelope import derived_id
from choreo.simulation.database import Database, Session
from choreo.simulation.log import Log

_RELAY_LEASE_SECONDS = 6.0
_MAIL_LEASE_SECONDS = 10.0
_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 0.25

TROUBLE = (psycopg.Error, OSError)
"""Of the database, and of Kafka and the mail server."""


def _now() -> float:
    return asyncio.get_running_loop().time()


class Relay:
    """From the outbox to the log: leases by partition, the oldest facts first, removed once acknowledged."""

    def __init__(self, topic: str, partitions: int, database: Database, log: Log) -> None:
        self._topic = topic
        self._partitions = range(partitions)
        self._database = database
        self._log = log
        self._woken = asyncio.Event()
        self._ours_until: dict[int, float] = {}
        self._sending: dict[int, asyncio.Task[Sequence[OutboxRow]]] = {}
        self._producers: dict[int, tuple[int, int]] = {}

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        while True:
            try:
                while True:
                    self._woken.clear()
                    if not await self._round():
                        await self._wait()
            except TROUBLE:
                for sending in self._sending.values():
                    sending.cancel()
                self._sending.clear()
                self._ours_until.clear()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _round(self) -> bool:
        """Whether there may be more to do at once."""
        await self._lease()
        finished = [number for number, task in self._sending.items() if task.done()]
        acknowledged = [row for number in finished for row in self._sending.pop(number).result()]
        if acknowledged:
            await self._database.turn("outbox.remove")
            for row in acknowledged:
                self._database.committed["outbox"].pop(("outbox", row.position), None)
        free = [number for number in self._ours_until if number not in self._sending]
        await self._database.turn("outbox.lowest")
        rows = sorted(self._database.rows("outbox"), key=lambda row: row.position)
        for number in free:
            batch = [row for row in rows if row.partition == number]
            if batch:
                task = asyncio.ensure_future(self._send(number, batch))
                task.add_done_callback(lambda _: self._woken.set())
                self._sending[number] = task
        return bool(acknowledged)

    async def _lease(self) -> None:
        await self._database.turn("relay_leases.lease")
        leases, now = self._database.committed["relay_leases"], _now()
        for number in self._partitions:
            owner, until = leases.get((number,), (None, 0.0))
            if owner is self or until <= now:
                leases[number,] = self, now + _RELAY_LEASE_SECONDS
                self._ours_until[number] = now + _RELAY_LEASE_SECONDS
            elif number in self._ours_until:
                del self._ours_until[number]
                if number in self._sending:
                    self._sending.pop(number).cancel()

    async def _send(self, number: int, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        """Ends when the log has them."""
        while True:
            try:
                if number not in self._producers:
                    self._producers[number] = self._log.new_producer_id(), 0
                id, first = self._producers[number]
                await self._log.produce((self._topic, number), (id, first), [row.record for row in rows])
                self._producers[number] = id, first + len(rows)
                return rows
            except OSError:
                await asyncio.sleep(_PAUSE_SECONDS)


class Ask(Protocol):
    """Makes a command of this service by its name, of these values."""

    def __call__(self, name: str, **values: Any) -> Command: ...


class Mailer:
    """Mails what is pending under a lease, and brings the outcome back as a command, once."""

    def __init__(
        self, database: Database, kernel: Kernel[Any], command: Ask, mail: Callable[..., Any]
    ) -> None:
        self._database = database
        self._kernel = kernel
        self._command = command
        self._mail = mail

    async def run(self) -> None:
        while True:
            try:
                for notification, address in await self._take():
                    await self._mail(f"<{notification.id}@choreo.invalid>", address)
                    await self._record(notification)
            except TROUBLE:
                pass
            await asyncio.sleep(_POLL_SECONDS)

    async def _take(self) -> list[tuple[Any, str]]:
        await self._database.turn("leases.take")
        addresses = {row.user_id: row.email for row in self._database.rows("recipients")}
        leases, now = self._database.committed["leases"], _now()
        taken = []
        for row in self._database.rows("notifications"):
            if (
                row.status == "pending"
                and row.user_id in addresses
                and leases.get(("leases", row.id), 0) <= now
            ):
                leases["leases", row.id] = now + _MAIL_LEASE_SECONDS
                taken.append((row, addresses[row.user_id]))
        return taken

    async def _record(self, notification: Any) -> None:
        """Until it is recorded, or the lease is over anyhow."""
        command = self._command(
            "RecordDelivery",
            cause=notification.cause,
            user_id=notification.user_id,
            notification_id=notification.id,
            delivered=True,
        )

        async def drop_lease(conn: Any, _: Decided) -> None:
            session: Session = conn
            session.write_beside("leases", notification.id, 0.0)

        try:
            async with asyncio.timeout(_MAIL_LEASE_SECONDS):
                while True:
                    try:
                        id = derived_id("delivery", notification.id)
                        await self._kernel.ask(command, id=id, side_write=drop_lease)
                        return
                    except Unavailable:
                        await asyncio.sleep(_POLL_SECONDS)
        except (Failed, TimeoutError):
            return


class Timers:
    """Expires what is due once all that billing had said by then is read."""

    def __init__(
        self,
        database: Database,
        kernel: Kernel[Any],
        log: Log,
        command: Ask,
        clock: Callable[[], datetime],
        partition_of: Callable[[str], int],
    ) -> None:
        self._database = database
        self._kernel = kernel
        self._log = log
        self._command = command
        self._clock = clock
        self._partition_of = partition_of

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                await self._round()
            except (*TROUBLE, Unavailable):
                pass

    async def _round(self) -> None:
        now = self._clock()
        await self._database.turn("orders.due")
        rows = [
            row for row in self._database.rows("orders") if row.status == "created" and row.decide_by <= now
        ]
        if not rows:
            return
        await self._log.turn("describe")
        ends = {place: self._log.end(place) for place in self._log.places if place[0] == "billing-events"}
        read = await self._database.next_offsets()
        for row in rows:
            place = "billing-events", self._partition_of(str(row.user_id))
            if read[place] >= ends[place]:
                await self._expire(row)

    async def _expire(self, row: Any) -> None:
        id: UUID = derived_id("expiry", row.id)
        command = self._command("ExpireOrder", cause=row.cause, user_id=row.user_id, order_id=row.id)
        try:
            await self._kernel.ask(command, id=id)
        except Failed:
            return
