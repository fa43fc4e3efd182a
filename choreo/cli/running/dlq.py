"""`choreo dlq`: events that need a person, and the events that queue behind them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import psycopg
import typer
from rich.progress import track
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis import clock
from choreo.chassis.database.connection import raw_connection
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.service import Service
from choreo.chassis.transaction import parked
from choreo.chassis.transaction.parked import Parked
from choreo.chassis.transaction.retry import Retried, drop, retry
from choreo.chassis.transaction.store import PostgresStore
from choreo.chassis.transaction.transaction import Transaction
from choreo.cli.debugging.row_formats import Paper
from choreo.errors import Unavailable, UsageError
from choreo.operations.reading.installation import Installation, find_installation
from choreo.operations.reading.parked_groups import Group, Queue, group_as_dict, grouped, parked_as_dict
from choreo.replay.engine.dry_run import Tried, dry_run
from choreo.replay.history.as_dict import write_as_dict
from choreo.terminal import Console

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)

GroupOption = Annotated[str | None, typer.Option("--group", metavar="ID", help="Only this group, see ls.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@app.callback()
def dlq() -> None:
    """Events that could not be handled, and what queues behind them: list, show, retry, drop."""


@app.command("ls")
def ls(group: GroupOption = None, as_json: AsJson = False) -> None:
    """List parked events, grouped by error and place, oldest first."""
    groups = _run(lambda desk: desk.groups(group))
    if as_json:
        print(json.dumps([group_as_dict(found) for found in groups], indent=2, default=str))
        return
    if not groups:
        print("Nothing is parked.")
        return
    for found in groups:
        where = f" ({found.head.place})" if found.head.place else ""
        print(f"{found.id}  {found.service} {found.head.type or 'record'}: {found.head.error}{where}")
        print(
            f"          keys {len(found.queues)}, queued behind them {found.behind}, "
            f"since {found.since:%Y-%m-%d %H:%M:%S} UTC"
        )
    print("\n`choreo dlq show --group ID` prints the events, `choreo dlq retry --group ID` takes them again.")


@app.command("show")
def show(group: GroupOption = None, as_json: AsJson = False) -> None:
    """Print parked events in full: where they lie in Kafka, what failed, headers and data.

    And the command that shows the failure again, without any effect; of an event that queues, that of the
    one it queues behind. With --pdb added you stand in the handler.
    """
    groups = _run(lambda desk: desk.groups(group))
    events = [
        parked_as_dict(queue, row) for found in groups for queue in found.queues for row in queue.events
    ]
    if as_json:
        print(json.dumps(events, indent=2, default=str))
        return
    for event in events:
        print(f"{event.pop('service')} {event.pop('id')}")
        for name, value in event.items():
            print(f"  {name:<10} {value}")
        print()


@app.command("retry")
def retry_(group: GroupOption = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Take parked events again, each key's in their order, up to the first that fails again.

    Runs dry first: in memory, on the rows as they are. Then for real those keys of which something can be
    handled. Exits 1 if anything stays parked.
    """
    outcomes = _run(lambda desk: desk.retry(group, dry_run=dry_run))
    if as_json:
        print(json.dumps([_outcome(outcome) for outcome in outcomes], indent=2, default=str))
    else:
        _print_outcomes(outcomes, dry_run)
    if any(outcome.left for outcome in outcomes):
        raise typer.Exit(1)


@app.command("drop")
def drop_(group: GroupOption = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Give up the events of a group that failed; what queues behind them is then free to be retried.

    They stay in Kafka and in the journal, but this service will never apply them. Needs --group.
    """
    if group is None:
        raise UsageError("choreo dlq drop needs --group: see `choreo dlq ls` for the groups.")
    queues = _run(lambda desk: desk.drop(group, dry_run=dry_run))
    if as_json:
        print(json.dumps([parked_as_dict(queue, queue.head) for queue in queues], indent=2, default=str))
        return
    for queue in queues:
        verb = "would be dropped" if dry_run else "dropped"
        print(f"{queue.service} {queue.key}: {queue.head.type or 'record'} {queue.head.id} {verb}")
    behind = sum(len(queue.events) - 1 for queue in queues)
    if behind:
        print(f"What queued behind ({behind}) is free: `choreo dlq retry` takes it.")


@dataclass(frozen=True)
class Outcome:
    """What a retry did with one key, or would do."""

    queue: Queue
    retried: Sequence[Retried | Tried]

    @property
    def handled(self) -> Sequence[Retried | Tried]:
        return [one for one in self.retried if one.outcome != "parked"]

    @property
    def left(self) -> int:
        return len(self.queue.events) - len(self.handled)

    @property
    def failed(self) -> Parked | None:
        return next((one.parked for one in self.retried if one.outcome == "parked"), None)


class Desk:
    """Where parked events are worked on: the services' databases and today's code."""

    def __init__(self, installation: Installation, engines: dict[str, AsyncEngine]) -> None:
        self._installation = installation
        self._engines = engines

    async def groups(self, only: str | None) -> list[Group]:
        found = {}
        for service, engine in self._engines.items():
            async with raw_connection(engine) as conn:
                found[service] = await parked.all(conn)
        groups = [group for group in grouped(found) if only in (None, group.id)]
        if only is not None and not groups:
            raise UsageError(f"There is no group {only}: see `choreo dlq ls`.")
        return groups

    async def retry(self, group: str | None, *, dry_run: bool) -> list[Outcome]:
        queues = [queue for found in await self.groups(group) for queue in found.queues]
        dry = [await self._dry_run(queue) for queue in _progress(queues, "dry run")]
        if dry_run:
            return dry
        return [
            await self._retry(outcome.queue) if outcome.handled else outcome
            for outcome in _progress(dry, "retry")
        ]

    async def drop(self, group: str, *, dry_run: bool) -> list[Queue]:
        queues = [queue for found in await self.groups(group) for queue in found.queues]
        for queue in _progress(queues, "drop") if not dry_run else ():
            await drop(self._engines[queue.service], queue.head)
        return queues

    async def _dry_run(self, queue: Queue) -> Outcome:
        service = self._installation.service(queue.service)
        async with raw_connection(self._engines[queue.service]) as conn:
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return Outcome(queue, await dry_run(conn, service, queue.key, clock.now()))

    async def _retry(self, queue: Queue) -> Outcome:
        service: Service[Any] = self._installation.service(queue.service)
        partitions = self._installation.settings.partitions
        transaction = Transaction(
            service.decider,
            partition_of=lambda key: partition_of(key, partitions),
            clock=clock.now,
        )
        store = PostgresStore(self._engines[queue.service], service.store)
        return Outcome(queue, await retry(transaction, store, service.consumes, queue.key))


def _run(work: Callable[[Desk], Awaitable[T]]) -> T:
    """Raises `Unavailable` where the databases are not to be had."""
    installation = find_installation()

    async def at_the_desk() -> T:
        async with _desk(installation) as desk:
            return await work(desk)

    try:
        return asyncio.run(at_the_desk())
    except (SQLAlchemyError, psycopg.Error, OSError) as error:
        reason = str(error).splitlines()[0] or repr(error)
        raise Unavailable(f"A database cannot be used: {reason}; see that the system runs.") from error


@asynccontextmanager
async def _desk(installation: Installation) -> AsyncIterator[Desk]:
    async with installation.engines() as engines:
        yield Desk(installation, engines)


def _progress(work: Sequence[T], what: str) -> Iterable[T]:
    """On a terminal; beside the output, so that that can go through a pipe."""
    console = Console(stderr=True)
    return track(work, what, console=console, transient=True, disable=not console.is_terminal)


def _print_outcomes(outcomes: Sequence[Outcome], dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for outcome in outcomes:
        print(f"{outcome.queue.service} {outcome.queue.key}")
        for one in outcome.handled:
            follows = f" → {', '.join(one.decided)}" if one.decided else ""
            print(f"  {one.parked.type or 'record'} {one.parked.id} {would}{one.outcome}{follows}")
            if isinstance(one, Tried):
                for write in one.writes:
                    Paper().write(write)
        if outcome.failed:
            failed, place = outcome.failed, f" ({outcome.failed.place})" if outcome.failed.place else ""
            print(f"  {failed.type or 'record'} {failed.id} fails{place}: {failed.error}")
            if outcome.left > 1:
                print(f"  {outcome.left - 1} more stay queued behind it")
    counts = Counter(one.outcome for outcome in outcomes for one in outcome.handled)
    done = ", ".join(f"{count} {would}{outcome}" for outcome, count in counts.items()) or "nothing to handle"
    print(f"{done}; {sum(outcome.left for outcome in outcomes)} stay parked")


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "service": outcome.queue.service,
        "key": outcome.queue.key,
        "handled": [
            {
                "id": str(one.parked.id),
                "event": one.parked.type,
                "outcome": one.outcome,
                "decided": one.decided,
                **(
                    {"writes": [write_as_dict(write) for write in one.writes]}
                    if isinstance(one, Tried)
                    else {}
                ),
            }
            for one in outcome.handled
        ],
        "left": outcome.left,
        "failed": parked_as_dict(outcome.queue, outcome.failed) if outcome.failed else None,
    }
