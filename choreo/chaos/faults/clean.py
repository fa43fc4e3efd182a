"""Parts that are killed, stopped and cut off, and processes that come and go."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from random import Random

import psycopg
from confluent_kafka.admin import AdminClient

from choreo.chaos.failpoints import MOMENTS, Moment, file_of
from choreo.chaos.faults.fault import (
    CAUGHT_UP_WITHIN_SECONDS,
    RECOVERY_TIMEOUT_SECONDS,
    Fault,
    NotInTime,
    all_in_sync,
    leaders,
    pid_of,
    replaced,
    suspended,
    until,
)
from choreo.chassis.database.connection import session
from choreo.chassis.installed import package_of
from choreo.chassis.registry import description_of, port_of, service_names
from choreo.chassis.settings import Settings
from choreo.embedded.part import AnswersHttp, Program
from choreo.embedded.testing import free_port_base
from choreo.operations.acting.scaling import scale_to
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.operations.reading.installation import observer_access

_REACHED_WITHIN = 20.0
_EXPELLED_WITHIN = 20.0
_BROKER_STOPPED_SECONDS = 15.0
_BROKER_AWAY_SECONDS = 1.0
_TOGETHER_SECONDS = 1.0
_TERMINATED_TIMES, _TERMINATED_EVERY = 5, 0.3

_TERMINATE = """/* chaos.terminate: every connection but this one */
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


def killed_at(service: str, moment: Moment) -> Fault:
    when = {
        "inside": "in the middle of a transaction's writes",
        "committed": "after a commit, before anybody was told",
        "acknowledged": "when Kafka has its facts and the outbox still holds them",
        "offset": "when a record is handled and Kafka does not know it yet",
    }

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        before = pid_of(system, service)
        armed = file_of(system.home, service, moment)
        armed.parent.mkdir(exist_ok=True)
        armed.touch()
        try:
            until(lambda: not armed.exists(), _REACHED_WITHIN, f"{service} did not reach {moment!r}")
        finally:
            armed.unlink(missing_ok=True)
        return replaced(system, service, before)

    sentence = f"the {service} service is SIGKILLed {when[moment]}"
    again = moment == "acknowledged"
    return Fault(f"kill-{service}-{moment}", sentence, strike, kills=1, repeats=again)


def killed(part: str, by: signal.Signals = signal.SIGKILL) -> Fault:
    def strike(system: ThrowawaySystem, chance: Random) -> float:
        time.sleep(chance.random())
        before = pid_of(system, part)
        os.kill(before, by)
        return replaced(system, part, before)

    return Fault(f"kill-{part}", f"{part} gets {by.name} at any moment", strike, kills=1)


def stopped(service: str) -> Fault:
    def strike(system: ThrowawaySystem, chance: Random) -> float:
        members = _members(system, service)
        if not members:
            raise NotInTime(f"{service} is in no group")
        with suspended(pid_of(system, service)):
            until(
                lambda: not members & _members(system, service),
                _EXPELLED_WITHIN,
                f"{service} was not expelled",
            )
        return time.monotonic()

    sentence = f"the {service} service gets SIGSTOP, its group expels it, it gets SIGCONT"
    return Fault(f"stop-{service}", sentence, strike, stops=1)


def broker_killed(service: str) -> Fault:
    """What is decided while the broker is away lies in the outbox and nowhere else; then its service dies."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        broker, process = pid_of(system, "kafka"), pid_of(system, service)
        os.kill(broker, signal.SIGKILL)
        time.sleep(_BROKER_AWAY_SECONDS)
        os.kill(process, signal.SIGKILL)
        since = replaced(system, service, process)
        replaced(system, "kafka", broker)
        return since

    return Fault(
        "kill-kafka", f"kafka gets SIGKILL, and the {service} service too before it is back", strike, 2
    )


def broker_stopped() -> Fault:
    def strike(system: ThrowawaySystem, chance: Random) -> float:
        with suspended(pid_of(system, "kafka")):
            time.sleep(_BROKER_STOPPED_SECONDS)
        return time.monotonic()

    sentence = f"kafka gets SIGSTOP, and SIGCONT after {_BROKER_STOPPED_SECONDS:.0f} s"
    return Fault("stop-kafka", sentence, strike, stops=1)


def leader_killed() -> Fault:
    """For a system of three brokers: one of them dies, and others lead its partitions until it is back."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        time.sleep(chance.random())
        part = f"kafka-{min(leaders(system))}"
        before = pid_of(system, part)

        def caught_up() -> bool:
            return pid_of(system, part) != before and all_in_sync(system)

        os.kill(before, signal.SIGKILL)
        until(caught_up, CAUGHT_UP_WITHIN_SECONDS, f"{part} was not there again, or did not catch up")
        return time.monotonic()

    sentence = "the broker that leads some partitions gets SIGKILL, is started again and catches up"
    return Fault("kill-leader", sentence, strike, kills=1, brokers=3)


def disconnected() -> Fault:
    def strike(system: ThrowawaySystem, chance: Random) -> float:
        with psycopg.connect(**session(system.admin_url), autocommit=True) as admin:
            for _ in range(_TERMINATED_TIMES):
                admin.execute(_TERMINATE)
                time.sleep(_TERMINATED_EVERY)
        return time.monotonic()

    sentence = f"postgres terminates all connections, {_TERMINATED_TIMES} times in a row"
    return Fault("disconnect-postgres", sentence, strike)


def joined(service: str, by: signal.Signals) -> Fault:
    """Partitions go to a second process and come back, while records are in flight."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        with _second_process(system, service) as second:
            time.sleep(_TOGETHER_SECONDS + chance.random())
            second.running.send(by)
            second.running.wait(RECOVERY_TIMEOUT_SECONDS)
        return time.monotonic()

    sentence = f"a second {service} process joins the group, works, and gets {by.name}"
    return Fault(f"join-{service}-{by.name.lower()}", sentence, strike, kills=int(by is signal.SIGKILL))


def zombie(service: str) -> Fault:
    """Who was stopped wakes up in the belief that the partitions are still its own."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        with suspended(pid_of(system, service)), _second_process(system, service) as second:
            time.sleep(_TOGETHER_SECONDS)
            os.kill(pid_of(system, service), signal.SIGCONT)
            time.sleep(_TOGETHER_SECONDS)
            second.stop()
        return time.monotonic()

    sentence = f"the {service} service gets SIGSTOP, a second process takes over, the first gets SIGCONT"
    return Fault(f"zombie-{service}", sentence, strike, stops=1)


def scaled(*services: str) -> Fault:
    """Partitions, relay shards, mails and connections are divided anew, twice."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        settings = Settings(port_base=system.port_base, home=system.home)
        scale_to(settings, dict.fromkeys(services, 3))
        time.sleep(_TOGETHER_SECONDS + chance.random())
        scale_to(settings, dict.fromkeys(services, 1))
        return time.monotonic()

    return Fault("scale", f"from one process each to three and back: {', '.join(services)}", strike)


def everything_killed() -> Fault:
    def strike(system: ThrowawaySystem, chance: Random) -> float:
        time.sleep(chance.random())
        system.kill()
        system.start()
        return time.monotonic()

    sentence = "choreo up gets SIGKILL, all parts go with it, and it is started again on its data"
    return Fault("kill-everything", sentence, strike, kills=1)


def _in_turn(*rows: Sequence[Fault]) -> Iterator[Fault]:
    """The first of each row, then the second of each: no service is struck twice in a row."""
    return (fault for turn in zip_longest(*rows) for fault in turn if fault)


def _kills_of(service: str) -> list[Fault]:
    """Who hears nothing has no offset to be late with."""
    reached = [moment for moment in MOMENTS if moment != "offset" or description_of(service).consumes]
    return [*(killed_at(service, moment) for moment in reached), killed(service)]


FAULTS: tuple[Fault, ...] = tuple(
    _in_turn(
        *map(_kills_of, service_names()),
        [
            disconnected(),
            stopped("order"),
            joined("billing", signal.SIGTERM),
            broker_killed("order"),
            stopped("notification"),
            joined("order", signal.SIGKILL),
        ],
        [
            killed("postgres", signal.SIGQUIT),
            zombie("billing"),
            joined("order", signal.SIGTERM),
            broker_stopped(),
            stopped("billing"),
            joined("billing", signal.SIGKILL),
            scaled("order", "billing"),
            everything_killed(),
        ],
    )
)


def _members(system: ThrowawaySystem, service: str) -> set[str]:
    """Whom Kafka counts as members of the service's group."""
    facts = system.run_file
    group = f"{facts['topic_prefix']}{service}-service"
    admin = AdminClient(observer_access(facts).confluent())
    described = admin.describe_consumer_groups([group])[group].result(RECOVERY_TIMEOUT_SECONDS)
    return {member.member_id for member in described.members}


@contextmanager
def _second_process(system: ThrowawaySystem, service: str) -> Iterator[Program]:
    """From when it is ready. However the block is left, it is gone."""
    facts, port_base = system.run_file, free_port_base()
    own = facts["settings"].get(service, {})
    env = os.environ | {
        "CHOREO_PORT_BASE": str(port_base),
        "CHOREO_TOPIC_PREFIX": facts["topic_prefix"],
        "CHOREO_PARTITIONS": str(facts["partitions"]),
        **{f"{service}_{field}".upper(): str(told) for field, told in own.items()},
        **system.kafka_access(service).environment(),
        f"{service.upper()}_DATABASE_URL": facts["runtime_urls"][service],
        "SMTP_URL": facts["smtp_url"],
        "PYTHONUNBUFFERED": "1",
    }
    port = port_of(service, Settings(port_base=port_base))
    second = Program(
        f"a second {service}",
        [sys.executable, "-m", package_of(service)],
        log=system.home / "logs" / f"{service}-second.log",
        probe=AnswersHttp(port, "/health/ready"),
        env=env,
    )
    second.start()
    try:
        second.wait_ready(RECOVERY_TIMEOUT_SECONDS)
        yield second
    finally:
        second.kill()
