"""One world from one seed: four services on databases and a log in memory, their customers, and what befalls
them. It is played until all is handled, and judged as chaos judges a real system.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from math import inf
from random import Random

import psycopg
import structlog
from aiokafka.errors import KafkaConnectionError, KafkaError

from choreo.chaos.history import Request
from choreo.chaos.judge import Violation, judge
from choreo.chassis import clock
from choreo.chassis.database import connection
from choreo.chassis.installed import room_of
from choreo.chassis.kafka import catch_up, consumer, grants, partition_producer, relay, shared_produce
from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.positions import TopicPartition
from choreo.errors import HandlerMisbehaves
from choreo.message.catalog import topic_of
from choreo.message.codec import Record
from choreo.message.envelope import Cause, derived_id
from choreo.replay.engine.sandbox import guarded
from choreo.simulation.awaits import waits_at
from choreo.simulation.customers import Customer
from choreo.simulation.database import Database, Session, give_way
from choreo.simulation.evidence import collected
from choreo.simulation.invariants import Watch, out_of_turn
from choreo.simulation.kafka import Access, MemoryApp, MemoryCluster
from choreo.simulation.log import Group, Log
from choreo.simulation.loop import BEGIN_SECONDS, Process, SimulatedLoop
from choreo.simulation.past import Past
from choreo.simulation.plan import Plan, drawn
from choreo.simulation.replica import Replica, Role
from choreo.simulation.sql import MemoryTrip

_UNFINISHED = (
    ("notification", "notifications", "status", "pending"),
    ("order", "orders", "status", "created"),
    ("billing", "payments", "outcome", "waiting"),
)
_SAME = "Ada", "aDa", "adA"
"""Names that are one: whoever comes first has it."""
_MET = frozenset(
    {
        *("cut", "slow", "acknowledgement", "late", "offsets", "truncation", "retention", "garbage"),
        *("mail", "no mail"),
    }
)
"""Faults that wait for somebody to meet them."""
_ELSEWHERE = _MET | {"crash", "clock", "unfit", "answer"}
"""Faults that befall somebody when they are met, and not when it is their turn."""
_OF_READERS = frozenset({"deaf", "hole"})
"""Faults that come only once somebody reads."""
_MET_BY_STATEMENTS = frozenset({"cut", "slow"})
_PASSED_BY, _PASSED_BY_SELDOM = {"cut": 0.7, "slow": 0.7}, 0.3
"""How often an occasion for a fault is let pass: there are hundreds for these, and few for the others."""
_OTHERS = 0.5
"""So often it is the turn of a kind of faults that has not been there, if there is one."""
_HUNTED = 0.5
"""So often who is killed is chosen by where he waits."""
_WATCHED_STEPS, _HUNTED_STEPS = 100, 400
"""So long it is looked at who waits where, and within so many steps somebody is killed."""
_LOOKED_AT = 10
"""In every tenth world all awaits are known at which a process ever was. It costs a tenth of such a world."""
_MOMENT_SECONDS = 0.1
_SOON_STEPS = 10
_FIRST_STEPS = 300
_PAST_SECONDS = 3600.0
"""So long ago is what was there before: no lease of it counts, and nothing of it is expected any more."""
_PAST_TRIES = 10
"""Within so many steps trouble begins."""
_BEGIN = datetime(2030, 1, 7, tzinfo=UTC) - timedelta(seconds=BEGIN_SECONDS)
"""When the loop's clock began."""
_TROUBLED_SECONDS, _HEALED_SECONDS = 400.0, 120.0
_RESTART_SECONDS = 3.0
_SESSION_SECONDS = 6.0
"""Until a group notices that a member is gone."""
_OLD_SECONDS = 5.0
"""After so long an order is undecided for too long, if that counts."""
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
    killed_at: frozenset[str]
    """Awaits, each as `file:line`, at which a process was when it was killed."""
    waited_at: frozenset[str]
    """Awaits at which a process was at any time; empty in most worlds, where that is not looked at."""
    befell: frozenset[str]
    """Kinds of faults that somebody met."""
    met: frozenset[tuple[str, str]]
    """Statements that waited for another transaction, and where that was."""
    carried_out: frozenset[str]
    """Statements."""
    told: tuple[str, ...]
    """What happened, line by line; empty where nobody asked for it."""


def play(seed: int, *, trace: bool = False, plan: Plan | None = None) -> Outcome:
    """The same seed, the same order of events, whatever the machine. With another plan, another world. Raises
    `HandlerMisbehaves` for a handler that tries to reach outside.
    """
    world = World(seed, plan or drawn(Random(f"plan {seed}")), trace)
    with _alone(world.loop, world.plan.look_seconds):
        outcome = world.play()
    for misbehaved in world.misbehaved:
        raise misbehaved
    return outcome


@cache
def past_of(customers: int, partitions: int) -> Past | None:
    """What so many customers left who have registered and paid in, where nothing befell anybody. None where a
    promise was broken even so: then they do it in each world, for all to see.
    """
    plan = replace(
        drawn(Random("plan of the past")),
        faults=(),
        replicas=1,
        partitions=partitions,
        customers=customers,
        is_one_name=False,
        knows_customers=False,
        orders=0,
        takes_time=0.0,
        is_watched=True,
    )
    for seed in range(_PAST_TRIES):  # some customers do not ask again
        world = World(seed, plan, trace=False)
        world.loop.now -= _PAST_SECONDS
        world.loop.alarm_at = inf
        with _alone(world.loop, plan.look_seconds):
            if past := world.past():
                return past
    return None


@contextmanager
def _alone(loop: SimulatedLoop, look_seconds: float) -> Iterator[None]:
    """Who makes a client of Kafka's makes one of the log in memory, who reads the clock by himself reads the
    simulated one, and what is logged of it all nobody reads.
    """
    stand_ins = (
        (clock, "now", _Clock(loop)),
        (partition_producer, "Cluster", MemoryCluster),
        (shared_produce, "Cluster", MemoryCluster),
        (grants, "Cluster", MemoryCluster),
        (consumer, "ChunkedApp", MemoryApp),
        (connection, "greenlet_spawn", _at_once),
        (catch_up, "RoundTrip", MemoryTrip),
        (outbox, "RoundTrip", MemoryTrip),
        (room_of("notification", "leases"), "RoundTrip", MemoryTrip),
        (room_of("order", "queries"), "_FEW", 1),
        (room_of("order", "admission"), "_PAUSE_SECONDS", look_seconds / 4),
        (relay, "_POLL_SECONDS", look_seconds),
        (room_of("notification", "mailer"), "_POLL_SECONDS", look_seconds),
    )
    before = [getattr(module, name) for module, name, _ in stand_ins]
    logged = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    for module, name, stand_in in stand_ins:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for (module, name, _), real in zip(stand_ins, before, strict=True):
            setattr(module, name, real)
        structlog.configure(**logged)


async def _at_once(end: Callable[[], None]) -> None:
    """There is no driver here that would have to wait."""
    end()


class _Clock:
    """Asked far more often than time passes."""

    def __init__(self, loop: SimulatedLoop, skew: float = 0.0) -> None:
        self._loop = loop
        self._skew = skew
        self._at, self._now = -1.0, _BEGIN

    def __call__(self) -> datetime:
        at = self._loop.now
        if at != self._at:
            self._at, self._now = at, _BEGIN + timedelta(seconds=at + self._skew)
        return self._now


@cache
def _roles(deadline_seconds: float) -> dict[str, Role]:
    """By service."""
    told = Settings(own={"order": {"decide_within": deadline_seconds}})
    return {name: Role(service) for name, service in services(told).items()}


class World:
    def __init__(self, seed: int, plan: Plan, trace: bool) -> None:
        self.plan = plan
        self.chance = Random(f"faults {seed}")
        self.loop = SimulatedLoop(Random(f"steps {seed}"), stays=plan.stays, hurries=plan.hurries)
        self._clock = _Clock(self.loop)
        self.told: list[str] = []
        self._seed = seed
        self._trace = trace
        self.misbehaved: list[HandlerMisbehaves] = []
        """What was raised for handlers that tried to reach outside."""
        self._roles = _roles(plan.deadline_seconds)
        if plan.is_watched:
            self._roles = {
                name: role.guarded_by(partial(guarded, tried=self.misbehaved))
                for name, role in self._roles.items()
            }
        self._serving: dict[str, list[Replica]] = {name: [] for name in self._roles}
        """By service: its processes that are alive."""
        self._replicas: list[Replica] = []
        """All that there ever were."""
        self.databases = {
            name: Database(
                role.service.store,
                meet=partial(self._statement, name),
                is_shared=partial(_several, self._serving[name]),
                is_calm=self._is_calm,
                is_quiet=self._is_unheard,
            )
            for name, role in self._roles.items()
        }
        topics = [topic_of(name) for name in self._roles]
        self.log = Log(topics, plan.partitions, self._kafka)
        self.groups = {
            name: Group([place for place in self.log.places if place[0] in role.consumed])
            for name, role in self._roles.items()
        }
        self._breaches: list[Violation] = []
        self._watch = Watch(self.log, self._breach)
        for name, database in self.databases.items():
            database.readable = self.loop.readable
            database.before_commit = partial(self._watch.commit, name, database)
        self.requests: list[Request] = []
        self.mails: list[tuple[str, str]] = []
        self._past = past_of(plan.customers, plan.partitions) if plan.knows_customers else None
        if self._past:
            self._past.give(self.databases, self.log, self.groups)
            self.requests += self._past.requests
            self.mails += self._past.mails
        self._is_cut = False
        """Whether a log has lost what was acknowledged: a person is needed then."""
        self._has_forgotten = False
        """Whether a log begins later than it did."""
        self._died: list[str] = []
        self._killed_at: set[str] = set()
        self._waited_at: set[str] = set()
        self._is_looked_at = seed % _LOOKED_AT == 0
        self._hunt: _Hunt | None = None
        self._replica_of: dict[Process, Replica] = {}
        self._befell: set[str] = set()
        self._drawn: set[str] = set()
        """Kinds of faults whose turn it was."""
        self._customers: list[asyncio.Task[None]] = []
        self._numbers = iter(range(1, 1_000_000))
        self.faults = 0
        if self._is_looked_at:
            self.loop.after = self._look
        self.loop.alarm = self._befall_next
        self.loop.alarm_at = self.chance.randrange(_FIRST_STEPS) + self._in_steps()
        self._armed: set[str] = set()
        """Faults that wait for somebody to meet them."""
        self._away_until: dict[str, float] = {}
        """By part: the broker, or a service's database."""
        self._all_there_at = 0.0
        self._is_healed = False

    def past(self) -> Past | None:
        """What it leaves when all is handled, if all customers got what they asked for."""
        try:
            self.loop.inside(self._begin)
            is_over = self.loop.play(self._is_over, _TROUBLED_SECONDS)
            is_quiet = is_over and self.loop.play(self._is_quiet, _HEALED_SECONDS)
            if is_quiet and not self._breaches and all(request.outcome == "ok" for request in self.requests):
                return Past.left_by(self.databases, self.log, self.groups, self.requests, self.mails)
            return None
        finally:
            self.loop.close()
            self._forget()

    def play(self) -> Outcome:
        try:
            self.loop.inside(self._begin)
            self.loop.play(self._is_over, _TROUBLED_SECONDS)
            self.loop.inside(self._heal)
            quiet = self.loop.play(self._is_quiet, _HEALED_SECONDS)
            violations = [*self._breaches, *(Violation("jobs", text) for text in self._died)]
            if self._is_incomplete():
                violations += self._untold()
            else:
                violations += judge(collected(self.databases, self.log, self.requests, self.mails))
                violations += self._wrong()
                if not quiet and not violations:
                    violations = [Violation("I7", "it is not quiet, and the judge sees nothing")]
                violations += self._doors()
        finally:
            self.loop.close()
            met = frozenset().union(*(database.met for database in self.databases.values()))
            statements = (database.carried_out for database in self.databases.values())
            carried_out = frozenset().union(*statements)
            self._forget()
        return Outcome(
            self._seed,
            self.plan,
            tuple(violations),
            self.loop.steps,
            self.loop.elapsed,
            self.faults,
            frozenset(self._killed_at),
            frozenset(self._waited_at),
            frozenset(self._befell),
            met,
            carried_out,
            tuple(self.told),
        )

    def _forget(self) -> None:
        """Most of what there was goes at once, and need not be looked for by the garbage collector."""
        for database in self.databases.values():
            vars(database).clear()
        for replica in self._replicas:
            replica.forget()
        for group in self.groups.values():
            vars(group).clear()
        vars(self.log).clear()
        self.databases.clear()
        self._replicas.clear()
        self._replica_of.clear()
        self._customers.clear()

    def _breach(self, promise: str, text: str) -> None:
        self.tell(f"{promise} is broken: {text}")
        self._breaches.append(Violation(promise, text))

    def tell(self, text: str, *, of: str = "world") -> None:
        if self._trace:
            self.told.append(f"{self.loop.elapsed:9.3f} {of:16} {text}")

    def _begin(self) -> None:
        for name in self._roles:
            for _ in range(self.plan.replicas):
                self._start(name)
        for number in range(self.plan.customers):
            process = Process(f"customer {number + 1}")
            customer = Customer(
                f"customer-{number + 1}",
                _SAME[number] if self.plan.is_one_name else f"customer-{number + 1}",
                self._past is not None,
                self.plan.orders,
                self._serving.__getitem__,
                self.chance,
                self.requests,
                partial(self.tell, of=process.name),
                partial(self._breach, "I6"),
                self._ask_for_the_impossible if "unfit" in self.plan.faults else lambda replica: None,
            )
            self._customers.append(process.begin(customer.run()))

    def _start(self, name: str) -> Replica:
        skew = self.chance.uniform(-10, 10) if "clock" in self.plan.faults else 0.0
        if skew:
            self._befell.add("clock")
        number = next(self._numbers)
        process = Process(f"{name} {number}")
        access = Access(self.log, self.groups, process, self.chance, self._acknowledged, self._late)
        replica = Replica(
            process,
            number,
            self._roles[name],
            self.databases[name],
            access,
            partitions=self.plan.partitions,
            clock=_Clock(self.loop, skew) if skew else self._clock,
            database_clock=self._clock,
            mail_server=partial(MailServer, self._mail, partial(self._breach, "mail")),
            died=self._died.append,
        )
        self._serving[name].append(replica)
        self._replicas.append(replica)
        self._replica_of[process] = replica
        return replica

    def _acknowledged(self, service: str, place: TopicPartition, offset: int) -> None:
        self._watch.acknowledged(service, self.databases[service], place, offset)

    def _alive(self) -> list[Replica]:
        """In the order of their starts."""
        alive = [replica for serving in self._serving.values() for replica in serving]
        return sorted(alive, key=lambda replica: replica.number)

    # -- when it is over -------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return all(task.done() for task in self._customers)

    def _is_quiet(self) -> bool:
        """Nothing more will come of it, and of nothing that was asked for and given up."""
        if self._breaches:
            return True
        is_asked = any(replica.asking for serving in self._serving.values() for replica in serving)
        if is_asked or any(database.sessions for database in self.databases.values()):
            return False
        return self._is_over() and not (any(self._untold()) if self._is_incomplete() else self._unfinished())

    def _unfinished(self) -> bool:
        parked = {row.key for database in self.databases.values() for row in database.rows("parked")}
        for name, database in self.databases.items():
            if database.committed["outbox"] or any(self._behind(name)):
                return True
        return any(
            getattr(row, column) == status and str(row.user_id) not in parked
            for name, table, column, status in _UNFINISHED
            for row in self.databases[name].rows(table)
        )

    def _behind(self, name: str) -> Iterator[TopicPartition]:
        """Partitions that this service has not read to their ends."""
        read = {row.place: row.next_offset for row in self.databases[name].rows("positions")}
        yield from (place for place in self.groups[name].places if read.get(place, 0) != self.log.end(place))

    def _doors(self) -> Iterator[Violation]:
        """When all is decided that no person is needed for, orders are let in."""
        replicas, orders = self._serving["order"], self.databases["order"]
        parked = {row.key for row in orders.rows("parked")}
        undecided = [str(row.user_id) for row in orders.rows("orders") if row.status == "created"]
        if not parked.issuperset(undecided):
            return  # billing waits for a person
        if undecided:
            self.loop.play(lambda: False, _OLD_SECONDS)
        looks: list[asyncio.Task[None]] = []

        def look() -> None:
            looks.extend(replica.process.begin(replica.admission.look()) for replica in replicas)

        self.loop.inside(look)
        self.loop.play(lambda: all(look.done() for look in looks), 30.0)
        if not all(replica.admission.admits("somebody") for replica in replicas):
            yield Violation("admission", "all is decided but what waits for a person, and no order is let in")

    def _is_incomplete(self) -> bool:
        """Whether a person is needed, since what was to be read is no more."""
        return self._is_cut or (self._has_forgotten and any(self._unread()))

    def _unread(self) -> Iterator[tuple[str, TopicPartition]]:
        """Services, and partitions that have forgotten what such a one has not read."""
        for name, group in self.groups.items():
            positions = self.databases[name].committed["positions"]
            for place in group.places:
                row = positions.get(("positions", *place))
                if (row.next_offset if row else 0) < self.log.partitions[place].begin:
                    yield name, place

    def _untold(self) -> Iterator[Violation]:
        """Who has read what is no more, or has not read what is no more, must have stopped, and say so."""
        unread = set(self._unread())
        for name, group in self.groups.items():
            positions = self.databases[name].committed["positions"]
            causes = [replica.consumer_job.state.cause or "" for replica in self._serving[name]]
            if any("is lost" in cause or "was cut" in cause for cause in causes):
                continue
            for place in group.places:
                row, log = positions.get(("positions", *place)), self.log.partitions[place]
                shown = f"{place[0]}[{place[1]}]"
                if (name, place) in unread:
                    yield Violation("I7", f"{name} has not read what {shown} has lost, and says nothing")
                elif row and not log.has(row):
                    yield Violation("I7", f"{name} has read what {shown} has lost, and says nothing")

    def _wrong(self) -> Iterator[Violation]:
        """What the judge cannot know: that is, whom nobody has given anything that is no event."""
        yield from out_of_turn(self.log, _BEGIN, clocks_agree="clock" not in self.plan.faults)
        if "garbage" not in self.plan.faults:
            for name, database in self.databases.items():
                for row in database.rows("parked"):
                    yield Violation("I7", f"{name} has parked {row.type} of {row.key}: {row.error}")

    def _heal(self) -> None:
        self._is_healed = True
        self._hunt = None
        self.loop.alarm_at = inf
        self._armed.clear()
        self._away_until.clear()
        self._all_there_at = 0.0
        for replica in self._alive():
            if replica.process.is_stopped:
                self.loop.resume(replica.process)
        self.tell("everything is mended")

    # -- what befalls them -----------------------------------------------------------------------

    def _in_steps(self) -> int:
        return 1 + int(self.chance.expovariate(1 / self.plan.steps_between_faults))

    def _befall_next(self) -> None:
        left = [fault for fault in self.plan.faults if fault not in self._drawn]
        fault = self.chance.choice(left if left and self.chance.random() < _OTHERS else self.plan.faults)
        self._drawn.add(fault)
        if fault in _OF_READERS and not self._apps_there():
            self.loop.alarm_at = self.loop.steps + _SOON_STEPS
            return
        self.faults += 1
        self.loop.alarm_at = (
            self.loop.steps + self._in_steps() if self.faults < self.plan.most_faults else inf
        )
        if fault not in _ELSEWHERE:
            self._befell.add(fault)
        self._befall(fault)

    def _befall(self, fault: str) -> None:
        alive = self._alive()
        match fault:
            case "crash" if self.chance.random() < _HUNTED and not self._hunt:
                self._hunt = _Hunt(self.loop.steps)
                self.loop.after = self._look
            case "crash" if alive:
                self._crash(self.chance.choice(alive))
            case "stop" if alive:
                self._stop(self.chance.choice(alive), self.chance.choice((0.5, 3.0, 20.0)))
            case "database":
                self._restart_database(self.chance.choice(list(self.databases)))
            case "broker":
                self._take_away("broker", self.chance.uniform(1.0, 15.0))
            case "election":
                place = self.chance.choice(self.log.places)
                self.tell(f"{place[0]}[{place[1]}] has a new leader", of="broker")
                self.log.elect(place)
            case "marker":
                self._write_in_a_transaction()
            case "deaf" | "hole":
                app, name = self.chance.choice(self._apps_there())
                self.tell("reads no more" if fault == "deaf" else "loses a chunk", of=name)
                (app.go_deaf if fault == "deaf" else app.lose_a_chunk)()
            case "rebalance":
                name = self.chance.choice(list(self.groups))
                self.tell(f"the group of {name} is divided anew")
                self.groups[name].divide(self.chance.randrange(4))
            case "lock":
                self._lock(self.chance.choice(list(self.databases)))
            case "answer":
                self._lose_answer()
            case _ if fault in _MET:
                self._armed.add(fault)

    def _look(self, process: Process, called: object) -> None:
        """At which awaits of a process whoever has just gone on waits now."""
        task = getattr(called, "__self__", None)
        if process not in self._replica_of or not isinstance(task, asyncio.Task):
            return
        places = list(waits_at([task.get_coro()]))
        if self._is_looked_at:
            self._waited_at.update(places)
        if places and self._hunt and self._hunt.is_caught(places[-1], self.loop.steps):
            self._hunt = None
            if not self._is_looked_at:
                self.loop.after = None
            if process.is_alive and not process.is_stopped:
                self._crash(self._replica_of[process])

    def _crash(self, replica: Replica) -> None:
        name = replica.role.service.name
        self._befell.add("crash")
        was_at = list(waits_at(task.get_coro() for task in self.loop.tasks_of(replica.process)))
        self._killed_at.update(was_at)
        self.tell(f"is killed at {', '.join(was_at[-3:])}", of=replica.process.name)
        self.loop.kill(replica.process)
        self._serving[name].remove(replica)
        replica.hang_up()
        self.loop.call_later(self.chance.uniform(0.1, _RESTART_SECONDS), self._restart, name)
        self.loop.call_later(_SESSION_SECONDS, self.groups[name].divide)

    def _restart(self, name: str) -> None:
        self.tell("is started", of=self._start(name).process.name)

    def _stop(self, replica: Replica, seconds: float) -> None:
        name = replica.role.service.name
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
            group = self.groups[replica.role.service.name]
            gone = [member for member in group.members if member.process is replica.process]
            group.divide(without=gone[0] if gone else None)

    def _restart_database(self, name: str) -> None:
        self.tell("is restarted", of=f"{name} database")
        for replica in self._serving[name]:
            replica.store.end_sessions()
        self._take_away(name, self.chance.uniform(0.5, 8.0))

    def _take_away(self, part: str, seconds: float) -> None:
        self.tell(f"is away for {seconds:.1f} s", of=part)
        self._away_until[part] = self.loop.now + seconds
        self._all_there_at = max(self._all_there_at, self._away_until[part])

    def _lock(self, name: str) -> None:
        database = self.databases[name]
        session, seconds = Session(database), self.chance.choice((0.5, 2.0, 8.0, 30.0))
        session.lock_free(("keys", row.key) for row in database.rows("keys"))
        self.tell(f"holds the keys of {name} for {seconds:g} s", of="somebody")
        self.loop.call_later(seconds, partial(session.end, commit=False))

    def _apps_there(self) -> list[tuple[MemoryApp, str]]:
        return [(app, app.process.name) for group in self.groups.values() for app in group.members]

    def _cut(self) -> None:
        """An unclean election: the new leader lacks what was acknowledged."""
        places = [place for place in self.log.places if self.log.end(place)]
        if not places:
            self._armed.add("truncation")
        else:
            place = self.chance.choice(places)
            lost = self.chance.randint(1, min(3, self.log.end(place)))
            self.tell(f"{place[0]}[{place[1]}] loses its last {lost} records", of="broker")
            self.log.elect(place, lost)
            self.log.repeat(place, self.chance.randint(0, lost + 1))
            self._is_cut = True

    def _set_offsets(self) -> None:
        """Of all groups to the ends, which they have not read: by a stranger, who joins them and leaves."""
        self.tell("somebody sets the groups' offsets")
        for group in self.groups.values():
            group.committed = {place: self.log.end(place) for place in self.log.places}
            group.divide()

    def _write_in_a_transaction(self) -> None:
        """Somebody else, who may take his time. Nothing of it is ever committed."""
        place = self.chance.choice(self.log.places)
        written = [Record(b"nobody", b"what was aborted", [])] if self.chance.random() < 0.5 else []
        seconds = self.chance.choice((0.0, 0.0, 0.5, 3.0, 20.0)) if written else 0.0
        self.tell(f"a transaction in {place[0]}[{place[1]}] ends after {seconds:g} s", of="broker")
        end = self.log.begin_transaction(place, written, commits=False)
        if seconds:
            self.loop.call_later(seconds, end)
        else:
            end()

    def _forget_old(self) -> None:
        """Retention, which asks nobody how far was read. Rather where there is something that was not."""
        begun = [place for place in self._heard() if self.log.end(place) > self.log.partitions[place].begin]
        unread = [place for name, group in self.groups.items() for place in self._behind(name)]
        if places := [place for place in begun if place in unread] or begun:
            place = self.chance.choice(places)
            begin = self.chance.randint(self.log.partitions[place].begin + 1, self.log.end(place))
            self.tell(f"{place[0]}[{place[1]}] begins at {begin} from now on", of="broker")
            self.log.forget_before(place, begin)
            self._has_forgotten = True

    def _heard(self) -> list[TopicPartition]:
        heard = {topic for role in self._roles.values() for topic in role.consumed}
        return [place for place in self.log.places if place[0] in heard]

    def _write_garbage(self) -> None:
        """Something that is no event, with the key of somebody who has been written about."""
        places = [place for place in self._heard() if self.log.end(place)]
        if places:
            place = self.chance.choice(places)
            keys = [placed.key for placed in self.log.partitions[place].placed if placed.key] or [b"nobody"]
            self.tell(f"somebody writes what is no event to {place[0]}[{place[1]}]")
            self.log.partitions[place].append([Record(self.chance.choice(keys), b"no event", [])])

    def _ask_for_the_impossible(self, replica: Replica) -> None:
        """It is refused, and those that are decided with it are not."""
        number = next(self._numbers)
        user, id = derived_id("customer", "impossible", number), derived_id("order", "impossible", number)
        values = {"order_id": id, "price": 3_00, "description": "\0"}
        command = replica.command("PlaceOrder", cause=Cause.root(id), user_id=user, **values)
        self._befell.add("unfit")
        self.tell("asks for what cannot be written", of="somebody")
        replica.ask(command, b"impossible")

    def _lose_answer(self) -> None:
        asking = [answer for replica in self._alive() for answer in replica.asking if not answer.done()]
        if asking:
            self._befell.add("answer")
            self.chance.choice(asking).set_exception(ConnectionError("the answer is lost"))

    # -- what they meet --------------------------------------------------------------------------

    def _is_calm(self) -> bool:
        """Nothing befalls the next statements of any service."""
        return (
            self._armed.isdisjoint(_MET_BY_STATEMENTS)
            and self.loop.now >= self._all_there_at
            and not self.plan.takes_time
        )

    def _is_unheard(self) -> bool:
        return not self._trace and self._is_calm()

    def _statement(self, service: str, statement: str) -> float:
        """Before each statement, and after a commit."""
        if self._is_unheard():
            return 0.0
        if self._trace:
            self.tell(statement, of=f"{service} database")
        if self._is_away(service):
            raise psycopg.OperationalError("the database is away")
        if statement == "commit" and self._takes_time():
            return self.chance.uniform(0.0, _MOMENT_SECONDS)
        if not self._armed:
            return 0.0
        if self._meets("cut"):
            self.tell(f"loses a connection at {statement}", of=f"{service} database")
            raise psycopg.OperationalError("the connection is lost")
        if self._meets("slow"):
            seconds = self.chance.choice((0.5, 3.0, 12.0))
            self.tell(f"takes {seconds:g} s for {statement}", of=f"{service} database")
            return seconds
        return 0.0

    async def _kafka(self, request: str) -> None:
        await give_way()
        if request == "acknowledge" and self._takes_time():
            await asyncio.sleep(self.chance.uniform(0.0, _MOMENT_SECONDS))
        if not self._trace and not self._armed and self.loop.now >= self._all_there_at:
            return
        self.tell(request, of="broker")
        if self._is_away("broker"):
            raise KafkaConnectionError("the broker is away")
        if request == "fetch" and not self._is_cut and self._meets("truncation"):
            self._cut()
        if request == "acknowledge" and self._meets("retention"):
            self._forget_old()
        if request == "acknowledge" and self._meets("garbage"):
            self._write_garbage()
        if request == "acknowledge" and self._meets("offsets"):
            self._set_offsets()
        if request == "acknowledge" and self._meets("acknowledgement"):
            self.tell("loses an acknowledgement", of="broker")
            raise KafkaConnectionError("the acknowledgement is lost")

    def _late(self, place: TopicPartition, batch: bytes) -> bool:
        """Whether the leader appends it when its sender has long given up."""
        if not self._meets("late"):
            return False

        def append() -> None:
            with suppress(KafkaError):
                self.log.append(place, batch)
            self.tell("appends what it was sent before", of="broker")

        self.loop.call_later(self.chance.choice((0.3, 2.0, 9.0)), append)
        return True

    async def _mail(self, message_id: str, recipient: str) -> None:
        await give_way()
        if self._meets("no mail"):
            self.tell("takes nobody's mail", of="mail server")
            raise room_of("notification", "smtp").ServerAway("takes nobody's mail")
        self.mails.append((message_id, recipient))
        self.tell(f"takes {message_id}", of="mail server")
        await give_way()
        if self._meets("mail"):
            raise OSError("the mail server's answer is lost")

    def _is_away(self, part: str) -> bool:
        return self.loop.time() < self._away_until.get(part, 0.0)

    def _takes_time(self) -> bool:
        return bool(self.plan.takes_time) and self.chance.random() < self.plan.takes_time

    def _meets(self, fault: str) -> bool:
        if fault not in self._armed or self.chance.random() < _PASSED_BY.get(fault, _PASSED_BY_SELDOM):
            return False
        self._armed.discard(fault)
        self._befell.add(fault)
        return True


def _several(replicas: Sequence[Replica]) -> bool:
    return len(replicas) > 1


class _Hunt:
    """For a process at an await at which nobody was for a while. At most of those where somebody waits now
    somebody waits all the time, and there are others that are passed once in a world.
    """

    def __init__(self, step: int) -> None:
        self._from, self._until = step + _WATCHED_STEPS, step + _HUNTED_STEPS
        self._been: set[str] = set()

    def is_caught(self, place: str, step: int) -> bool:
        is_rare = place not in self._been
        self._been.add(place)
        return (is_rare and step > self._from) or step > self._until


class MailServer:
    """As the mailer's own connection with one."""

    def __init__(
        self, mail: Callable[[str, str], Awaitable[None]], breach: Callable[[str], None], process: Process
    ) -> None:
        self._mail = mail
        self._breach = breach
        self._process = process
        self._taken: set[str] = set()
        self.most = 1

    def next_pause_seconds(self) -> float:
        return 1.0

    async def session(self) -> "MailSession":
        return MailSession()

    def give_back(self, session: "MailSession") -> None: ...

    async def take(
        self, session: "MailSession", letter: bytes, recipient: str, timeout_seconds: float
    ) -> bool | None:
        found = _MESSAGE_ID.search(letter)
        assert found
        id = found.group(1).decode()
        if id in self._taken:
            self._breach(f"{self._process.name} mails {id} again, and has been told that it was taken")
        async with asyncio.timeout(timeout_seconds):
            await self._mail(id, recipient)
        self._taken.add(id)
        return True

    async def quit(self, unused_for_seconds: float = 0.0) -> None: ...


class MailSession:
    is_usable = True
    offers = frozenset({"8bitmime"})

    def close(self) -> None:
        self.is_usable = False


_MESSAGE_ID = re.compile(rb"^Message-ID: *(<[^>]+>)", re.MULTILINE | re.IGNORECASE)
