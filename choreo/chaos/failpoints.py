"""Moments at which a process that dies does the most harm, and dying at them.

The services know nothing of this: `choreo.chaos.service` patches its own process before it runs
one. A failpoint is armed by a file; the process that reaches the moment takes the file away and kills itself.
So whoever armed it knows by the file's absence that it happened, and it happens once.
"""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from choreo.chassis.kafka.handover import Handover
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.transaction import Transaction

Moment = Literal["inside", "committed", "acknowledged", "offset"]
"""`inside`: in the middle of a transaction's writes, rows and journal done, outbox and positions not.
`committed`: the database has it, and nobody was told yet: no client, no topic, no waiting request.
`acknowledged`: Kafka has the facts, and they still lie in the outbox.
`offset`: committed and told, but Kafka does not know yet that the record was read.
"""

MOMENTS: tuple[Moment, ...] = get_args(Moment)


def file_of(home: Path, service: str, moment: Moment) -> Path:
    """Where it lies, the service is to die at that moment."""
    return home / "failpoints" / f"{service}.{moment}"


def install(service: str, home: Path) -> None:
    """From now on this process dies where it is told to."""

    def reach(moment: Moment) -> None:
        try:
            file_of(home, service, moment).unlink()
        except FileNotFoundError:
            return
        _die()

    write, remove, tell, finished = Transaction.write, outbox.remove, Kernel._tell, Handover._finished

    async def die_inside(transaction: Transaction[Any], store: Any, work: Any) -> None:
        if work.entries and file_of(home, service, "inside").exists():
            store.save(work.before, work.after)
            store.add_to_journal(work.entries)
            await store.send()
            reach("inside")  # alive: another process of the service was quicker
            work = replace(work, before=work.after, entries=[])
        await write(transaction, store, work)

    def die_committed(kernel: Kernel[Any], work: Any) -> None:
        if work.writes:
            reach("committed")
        tell(kernel, work)

    async def die_acknowledged(conn: Any, positions: Sequence[int]) -> None:
        reach("acknowledged")
        await remove(conn, positions)

    def die_before_offset(handover: Handover, done: Any, **rest: Any) -> None:
        if not done.cancelled() and done.exception() is None:
            reach("offset")
        finished(handover, done, **rest)

    _replace(Transaction, "write", die_inside)
    _replace(outbox, "remove", die_acknowledged)
    _replace(Kernel, "_tell", die_committed)
    _replace(Handover, "_finished", die_before_offset)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _replace(owner: object, name: str, by: Callable[..., Any]) -> None:
    assert hasattr(owner, name)
    setattr(owner, name, by)
