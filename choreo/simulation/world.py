"""One world from one seed: four services on databases and a log in memory, their customers, and what befalls
them. It is played until all is handled, and judged as chaos judges a real system.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from random import Random
from typing import Any

import psycopg
import structlog

from choreo.chaos.history import Request
from choreo.chaos.judge import Violation, judge
from choreo.chassis import clock
from choreo.chassis.registry import services
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.errors import HandlerMisbehaves
from choreo.message.catalog import topic_of
from choreo.replay.engine.sandbox import guarded
from choreo.simulation.customers import Customer
from choreo.simulation.database import Database, Session
from choreo.simulation.evidence import collected
from choreo.simulation.log import Group, Log
from choreo.simulation.loop import Process, SimulatedLoop
from choreo.simulation.plan import Plan, drawn
from choreo.simulation.replica import Replica, consumed

_BEGIN = datetime(2030, 1, 7, tzinfo=UTC)
_TROUBLED_SECONDS, _HEALED_SECONDS = 400.0, 120.0
_RESTART_SECONDS = 3.0
_SESSION_SECONDS = 6.0
"""Until a group notices that a member is gone."""
_IDLE_SECONDS = 10.0
"""Until a database ends the session of a process that was stopped in its transaction."""


@dataclass(frozen=True)
class Outcome:
    """What became of one world."""

    seed: int
    plan: Plan
    violations: tuple[Violation, ...]
    steps: int
    seconds: float
    """Simulated."""
    faults: int
    told: tuple[str, ...]
    """What happened, line by line; empty where nobody asked for it."""


def play(seed: int, *, trace: bool = False) -> Outcome:
    """The same seed, the same order of events, whatever the machine. Raises `HandlerMisbehaves` for a handler
    that tries to reach outside.
    """
    world = World(seed, drawn(Random(f"plan {seed}")), trace)
    with _alone(world.loop):
        outcome = world.play()
    for misbehaved in world.misbehaved:
        raise misbehaved
    return outcome


@contextmanager
def _alone(loop: SimulatedLoop) -> Iterator[None]:
    """Who reads the clock by himself reads the simulated one, and what is logged of it all nobody reads."""
    now, logged = clock.now, structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    clock.now = lambda: _BEGIN + timedelta(seconds=loop.time())
    try:
        yield
    finally:
        clock.now = now
        structlog.configure(**logged)


@cache
def _services(deadline_seconds: float) -> dict[str, Service[Any]]:
    return services(Settings(own={"order": {"decide_within": deadline_seconds}}))


class World:
    def __init__(self, seed: int, plan: Plan, trace: bool) -> None:
        self.plan = plan
        self.chance = Random(f"faults {seed}")
        self.loop = SimulatedLoop(Random(f"steps {seed}"), stays=plan.stays)
        self.told: list[str] = []
        self._seed = seed
        self._trace = trace
        self.misbehaved: list[HandlerMisbehaves] = []
        self._services = {
            name: replace(service, decider=guarded(service.decider, self.misbehaved))
            for name, service in _services(plan.deadline_seconds).items()
        }
        self.databases = {
            name: Database(service.store, turn=partial(self._statement, name))
            for name, service in self._services.items()
        }
        topics = [topic_of(name) for name in self._services]
        self.log = Log(topics, plan.partitions, self._kafka)
        self.groups: dict[str, Group] = {}
        for name, service in self._services.items():
            places = [place for place in self.log.places if place[0] in consumed(service)]
            self.groups[name] = Group(places)
            self.databases[name].begin(map(self.log.begin, places))
        self.replicas: list[Replica] = []
        self.requests: list[Request] = []
        self.mails: list[tuple[str, str]] = []
        self._died: list[str] = []
        self._customers: list[asyncio.Task[None]] = []
        self._numbers = iter(range(1, 1_000_000))
        self.faults = 0
        self._next_fault = self._in_steps()
        self._armed: set[str] = set()
        """Faults that wait for somebody to meet them."""
        self._away_until: dict[str, float] = {}
        """By part: the broker, or a service's database."""
        self._is_healed = False

    def play(self) -> Outcome:
        try:
            self.loop.inside(self._begin)
            self.loop.play(self._is_over, _TROUBLED_SECONDS, self._at_step)
            self.loop.inside(self._heal)
            quiet = self.loop.play(self._is_quiet, _HEALED_SECONDS, lambda step: None)
            violations = [Violation("jobs", text) for text in self._died]
            violations += judge(collected(self.databases, self.log, self.requests, self.mails))
            if not quiet and not violations:
                violations = [Violation("I7", "it is not quiet, and the judge sees nothing")]
        finally:
            self.loop.close()
        return Outcome(
            self._seed,
            self.plan,
            tuple(violations),
            self.loop.steps,
            self.loop.time(),
            self.faults,
            tuple(self.told),
        )

    def tell(self, text: str, *, of: str = "world") -> None:
        if self._trace:
            self.told.append(f"{self.loop.time():9.3f} {of:16} {text}")

    def _begin(self) -> None:
        for name in self._services:
            for _ in range(self.plan.replicas):
                self._start(name)
            self.groups[name].divide()
        for number in range(self.plan.customers):
            process = Process(f"customer {number + 1}")
            customer = Customer(
                f"customer-{number + 1}",
                self.plan.orders,
                self._serving,
                self.chance,
                self.requests,
                partial(self.tell, of=process.name),
            )
            self._customers.append(process.begin(customer.run()))

    def _start(self, name: str) -> None:
        skew = self.chance.uniform(-10, 10) if "clock" in self.plan.faults else 0.0
        replica = Replica(
            f"{name} {next(self._numbers)}",
            self._services[name],
            self.databases[name],
            self.log,
            partitions=self.plan.partitions,
            clock=lambda: _BEGIN + timedelta(seconds=self.loop.time() + skew),
            mail=self._mail,
            chance=self.chance,
            died=self._died.append,
        )
        self.replicas.append(replica)
        self.groups[name].members.append(replica.consumer)

    def _serving(self, name: str) -> list[Replica]:
        return [replica for replica in self._alive() if replica.service.name == name]

    def _alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.process.is_alive]

    # -- when it is over -------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return all(task.done() for task in self._customers)

    def _is_quiet(self) -> bool:
        return self._is_over() and not self._unfinished()

    def _unfinished(self) -> bool:
        for database in self.databases.values():
            if database.holders or database.committed["outbox"]:
                return True
            if any(row.next_offset != self.log.end(row.place) for row in database.rows("positions")):
                return True
        return (
            any(row.status == "pending" for row in self.databases["notification"].rows("notifications"))
            or any(row.status == "created" for row in self.databases["order"].rows("orders"))
            or any(row.outcome == "waiting" for row in self.databases["billing"].rows("payments"))
        )

    def _heal(self) -> None:
        self._is_healed = True
        self._armed.clear()
        self._away_until.clear()
        for replica in self._alive():
            if replica.process.is_stopped:
                self.loop.resume(replica.process)
        self.tell("everything is mended")

    # -- what befalls them -----------------------------------------------------------------------

    def _in_steps(self) -> int:
        return 1 + int(self.chance.expovariate(1 / self.plan.steps_between_faults))

    def _at_step(self, step: int) -> None:
        if step >= self._next_fault and self.faults < self.plan.most_faults:
            self._next_fault = step + self._in_steps()
            self.faults += 1
            self._befall(self.chance.choice(self.plan.faults))

    def _befall(self, fault: str) -> None:
        alive = self._alive()
        match fault:
            case "crash" if alive:
                self._crash(self.chance.choice(alive))
            case "stop" if alive:
                self._stop(self.chance.choice(alive), self.chance.choice((0.5, 3.0, 20.0)))
            case "database":
                self._restart_database(self.chance.choice(list(self.databases)))
            case "broker":
                self._take_away("broker", self.chance.uniform(1.0, 15.0))
            case "rebalance":
                name = self.chance.choice(list(self.groups))
                self.tell(f"the group of {name} is divided anew")
                self.groups[name].divide(self.chance.randrange(4))
            case "lock":
                self._lock(self.chance.choice(list(self.databases)))
            case "answer":
                self._lose_answer()
            case "cut" | "slow" | "acknowledgement" | "mail":
                self._armed.add(fault)

    def _crash(self, replica: Replica) -> None:
        name = replica.service.name
        self.tell("is killed", of=replica.process.name)
        self.loop.kill(replica.process)
        replica.hang_up()
        self.loop.call_later(self.chance.uniform(0.1, _RESTART_SECONDS), self._restart, name)
        self.loop.call_later(_SESSION_SECONDS, self.groups[name].divide)

    def _restart(self, name: str) -> None:
        self._start(name)
        self.tell("is started", of=self.replicas[-1].process.name)
        self.groups[name].divide()

    def _stop(self, replica: Replica, seconds: float) -> None:
        name = replica.service.name
        self.tell(f"is stopped for {seconds:g} s", of=replica.process.name)
        self.loop.halt(replica.process, seconds)
        if seconds > _SESSION_SECONDS:
            self.loop.call_later(_SESSION_SECONDS, self._divide_without, replica)
            self.loop.call_later(seconds, self.groups[name].divide)
        if seconds > _IDLE_SECONDS:
            self.loop.call_later(_IDLE_SECONDS, self._end_idle_sessions, replica)

    def _end_idle_sessions(self, replica: Replica) -> None:
        if replica.process.is_stopped:
            replica.store.end_idle_sessions()

    def _divide_without(self, replica: Replica) -> None:
        """It is taken for dead, and reads on when it is continued, until it hears of it."""
        if replica.process.is_stopped:
            self.groups[replica.service.name].divide(without=replica.consumer)

    def _restart_database(self, name: str) -> None:
        self.tell("is restarted", of=f"{name} database")
        for replica in self._serving(name):
            replica.store.end_sessions()
        self._take_away(name, self.chance.uniform(0.5, 8.0))

    def _take_away(self, part: str, seconds: float) -> None:
        self.tell(f"is away for {seconds:.1f} s", of=part)
        self._away_until[part] = self.loop.time() + seconds

    def _lock(self, name: str) -> None:
        database = self.databases[name]
        session, seconds = Session(database), self.chance.choice((0.5, 2.0, 8.0))
        session.lock_free(("keys", row.key) for row in database.rows("keys"))
        self.tell(f"holds the keys of {name} for {seconds:g} s", of="somebody")
        self.loop.call_later(seconds, partial(session.end, commit=False))

    def _lose_answer(self) -> None:
        asking = [answer for replica in self._alive() for answer in replica.asking if not answer.done()]
        if asking:
            self.chance.choice(asking).set_exception(ConnectionError("the answer is lost"))

    # -- what they meet --------------------------------------------------------------------------

    async def _statement(self, service: str, statement: str) -> None:
        """Before each statement, and after a commit."""
        await asyncio.sleep(0)
        self.tell(statement, of=f"{service} database")
        if self._is_away(service):
            raise psycopg.OperationalError("the database is away")
        if self._meets("cut"):
            self.tell(f"loses a connection at {statement}", of=f"{service} database")
            raise psycopg.OperationalError("the connection is lost")
        if self._meets("slow"):
            seconds = self.chance.choice((0.5, 3.0, 12.0))
            self.tell(f"takes {seconds:g} s for {statement}", of=f"{service} database")
            await asyncio.sleep(seconds)

    async def _kafka(self, request: str) -> None:
        await asyncio.sleep(0)
        self.tell(request, of="broker")
        if self._is_away("broker"):
            raise OSError("the broker is away")
        if request == "acknowledge" and self._meets("acknowledgement"):
            self.tell("loses an acknowledgement", of="broker")
            raise OSError("the acknowledgement is lost")

    async def _mail(self, message_id: str, recipient: str) -> None:
        await asyncio.sleep(0)
        self.mails.append((message_id, recipient))
        self.tell(f"takes {message_id}", of="mail server")
        await asyncio.sleep(0)
        if self._meets("mail"):
            raise OSError("the mail server's answer is lost")

    def _is_away(self, part: str) -> bool:
        return self.loop.time() < self._away_until.get(part, 0.0)

    def _meets(self, fault: str) -> bool:
        if fault not in self._armed or self.chance.random() < 0.7:
            return False
        self._armed.discard(fault)
        return True
