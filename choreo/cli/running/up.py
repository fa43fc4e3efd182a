"""`choreo up`: everything, in order, until told to stop."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

import psycopg
import typer
from sqlalchemy.exc import SQLAlchemyError

from choreo.chassis.database.migrate import migrate
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.acls import admit
from choreo.chassis.kafka.topics import declare_topics
from choreo.chassis.settings import OBSERVER, SERVICES, Settings
from choreo.embedded.home import Home, cache_directory
from choreo.embedded.kafka import Kafka
from choreo.embedded.part import AnswersHttp, Part, Program, accepts_connections
from choreo.embedded.ports import LOOPBACK, listen, require_free
from choreo.embedded.postgres import Postgres
from choreo.embedded.secrets import write_secret
from choreo.embedded.supervise import Supervisor
from choreo.errors import Unavailable, UsageError
from choreo.operations.principals import grants_of_all, topic_names
from choreo.operations.reading.installation import read_settings
from choreo.operations.replicas import Replica, read_counts, replicas_of


def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete all data first; keeps downloads.")] = False,
    brokers: Annotated[
        int | None,
        typer.Option(help="1 or 3, for the first start: the data keeps the number. By default 1."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead.")] = False,
    replicas: Annotated[
        str, typer.Option(help="Processes of each service, as order=2,billing=3; otherwise one.")
    ] = "",
) -> None:
    """Start Kafka, Postgres and the four services; stay until Ctrl-C.

    What KAFKA_BOOTSTRAP_SERVERS, the four *_DATABASE_URL and SMTP_URL name is used instead of started.
    """
    counts = read_counts(replicas)
    if brokers not in (None, 1, 3):
        raise UsageError("choreo up --brokers takes 1 or 3: one node, or as many as it takes to lose one.")
    System(read_settings(), Reporter(as_json), brokers).run(fresh, counts)


class Reporter:
    """One line per event, for people or for programs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._since = time.monotonic()

    def say(self, text: str) -> None:
        after = time.monotonic() - self._since
        print(json.dumps({"after": round(after, 2), "says": text}) if self._as_json else text, flush=True)

    def ready(self, urls: dict[str, str]) -> None:
        after = time.monotonic() - self._since
        if self._as_json:
            print(json.dumps({"after": round(after, 2), "ready": True, "urls": urls}), flush=True)
            return
        print(f"\nThe shop is open after {after:.1f} s:\n")
        for name, url in urls.items():
            print(f"  {name:<13} {url}")
        print("\nCtrl-C stops everything.", flush=True)


@dataclass
class System:
    """One installation: what of it is ours to start, and what is only used."""

    settings: Settings
    report: Reporter
    brokers: int | None = None
    """How many are asked for."""
    parts: dict[str, Part] = field(default_factory=dict)
    replicas: dict[Replica, socket.socket] = field(default_factory=dict)
    """Each with the socket of its own port."""
    owner_urls: dict[str, str] = field(default_factory=dict)
    runtime_urls: dict[str, str] = field(default_factory=dict)
    kafka_access: dict[str, KafkaAccess] = field(default_factory=dict)
    bootstrap: str = ""
    smtp_url: str = ""

    def run(self, fresh: bool, counts: Mapping[str, int]) -> None:
        """`counts` says of which services there is more than one process."""
        databases = external_databases(self.settings)
        self.home = Home(self.settings)
        with self.home.held(), ExitStack() as self.sockets:
            self.home.take_wish()
            if fresh:
                self.home.forget_data()
            self.listening = {
                service: self.sockets.enter_context(listen(self.settings.port_of(service), service))
                for service in SERVICES
            }
            for replica in replicas_of(dict.fromkeys(SERVICES, 1) | dict(counts)):
                self._open(replica)
            try:
                with Supervisor(self.report.say, on_change=lambda part: self._write_run_file()) as system:
                    self._start_infrastructure(system, databases)
                    services = [self._service(replica) for replica in self.replicas]
                    system.start(*services)
                    system.wait(*services)
                    self.report.ready(self._urls())
                    system.watch(lambda: self._scale(system))
            finally:
                self.home.remove_run_file()
        self.report.say("Everything is stopped.")

    def _start_infrastructure(self, system: Supervisor, external_databases: dict[str, str]) -> None:
        postgres = None if external_databases else self._postgres()
        mail = None if self.settings.smtp_url else self._mail()
        nodes = [] if self.settings.kafka_bootstrap_servers else self._kafka()
        kafka = nodes[0] if nodes else None
        self.smtp_url = self.settings.smtp_url or f"smtp://{LOOPBACK}:{self.settings.port_base + 25}"
        self.bootstrap = kafka.bootstrap if kafka else self.settings.kafka_bootstrap_servers or ""
        if kafka:
            kafka.prepare()
        system.start(*[part for part in (postgres, mail, *nodes) if part])
        if postgres:
            system.wait(postgres)
        self._migrate(postgres, external_databases)
        system.wait(*[part for part in (mail, *nodes) if part])
        admin = kafka.admin if kafka else self.settings.kafka_access()
        declare_topics(admin, topic_names(self.settings), self.settings.partitions, len(nodes) or -1)
        if kafka:
            wanted = grants_of_all(self.settings)
            admit(admin, {kafka.user(name): grants for name, grants in wanted.items()})
        for who in (*SERVICES, OBSERVER):
            self.kafka_access[who] = kafka.user(who) if kafka else self.settings.kafka_access(who)
        self._write_observer_file(postgres)

    def _kafka(self) -> list[Kafka]:
        """All its nodes: one, or three."""
        count = self._broker_count()
        first = self.settings.port_base + 1092
        ports = [(first + 10 * n, first + 10 * n + 1) for n in range(count)]
        nodes = []
        for n, (port, controller_port) in enumerate(ports, start=1):
            require_free(port, "Kafka")
            require_free(controller_port, "Kafka's controller")
            name = "kafka" if count == 1 else f"kafka-{n}"
            node = Kafka(
                self.home.kafka if count == 1 else self.home.kafka / str(n),
                port,
                controller_port,
                cache=cache_directory(),
                log=self.home.logs / f"{name}.log",
                secrets_file=self.home.secrets / "kafka.json",
                say=self.report.say,
                node=n,
                nodes=ports if count > 1 else (),
            )
            self.parts[name] = node
            nodes.append(node)
        return nodes

    def _broker_count(self) -> int:
        there = self.home.broker_count()
        if there and self.brokers not in (None, there):
            raise Unavailable(
                f"The data in {self.home.path} is that of {there} broker{'s' if there > 1 else ''} and "
                f"cannot be spread over {self.brokers}: leave --brokers away, choose another CHOREO_HOME, or "
                f"start over with --fresh."
            )
        return there or self.brokers or 1

    def _postgres(self) -> Postgres:
        postgres = Postgres(
            self.home.postgres,
            secrets_file=self.home.secrets / "postgres.json",
            log=self.home.logs / "postgres.log",
        )
        self.parts["postgres"] = postgres
        return postgres

    def _mail(self) -> Program:
        port = self.settings.port_base + 25
        require_free(port, "mail")
        arguments = ["--host", LOOPBACK, "--port", str(port), "--maildir", str(self.home.maildir)]
        mail = Program(
            "mail",
            [sys.executable, "-m", "choreo.embedded.mail", *arguments],
            log=self.home.logs / "mail.log",
            probe=lambda: accepts_connections(port),
        )
        self.parts["mail"] = mail
        return mail

    def _migrate(self, postgres: Postgres | None, external_databases: dict[str, str]) -> None:
        started = time.monotonic()
        for service in SERVICES:
            if postgres:
                owner_url, runtime_url = postgres.create_service(service)
                migrate(service, owner_url, service, OBSERVER)
            else:
                owner_url = runtime_url = external_databases[service]
                migrate_external(service, owner_url)
            self.owner_urls[service], self.runtime_urls[service] = owner_url, runtime_url
        self.report.say(f"databases are ready after {time.monotonic() - started:.1f} s")

    def command(self, service: str) -> list[str]:
        """What runs this service."""
        return [sys.executable, "-m", f"{service}_service"]

    def _open(self, replica: Replica) -> None:
        """Its own port; Unavailable if taken."""
        port = self.settings.own_port_of(replica.service, replica.number)
        self.replicas[replica] = self.sockets.enter_context(listen(port, replica.name))

    def _scale(self, system: Supervisor) -> None:
        """Does what `choreo scale` asks for, if it does."""
        counts = self.home.take_wish()
        if counts is None:
            return
        wanted = set(replicas_of(counts))
        there = {replica for replica in self.replicas if replica.service in counts}
        surplus = sorted(there - wanted)
        system.end(*[self.parts.pop(replica.name) for replica in surplus])
        for replica in surplus:
            self.replicas.pop(replica).close()
        try:
            for replica in sorted(wanted - there):
                self._open(replica)
                system.add(self._service(replica))
        except Unavailable as error:
            self.report.say(str(error))
        self._write_run_file()

    def _service(self, replica: Replica) -> Program:
        name, own = replica.service, self.replicas[replica]
        handed_over = [self.listening[name].fileno(), own.fileno()]
        others = {f"{service.upper()}_DATABASE_URL" for service in SERVICES} | {"SMTP_URL"}
        inherited = {key: value for key, value in os.environ.items() if key not in others}
        env = {key: value for key, value in inherited.items() if "KAFKA_" not in key} | {
            **self.kafka_access[name].environment(),
            f"{name.upper()}_DATABASE_URL": self.runtime_urls[name],
            "CHOREO_PORT_BASE": str(self.settings.port_base),
            "CHOREO_HTTP_FD": str(handed_over[0]),
            "CHOREO_OWN_HTTP_FD": str(handed_over[1]),
            "PYTHONUNBUFFERED": "1",
        }
        if name == "notification":
            env["SMTP_URL"] = self.smtp_url
        service = Program(
            replica.name,
            self.command(name),
            log=self.home.logs / f"{replica.name}.log",
            probe=AnswersHttp(own.getsockname()[1], "/health/ready"),
            env=env,
            pass_fds=handed_over,
        )
        self.parts[replica.name] = service
        return service

    def _urls(self) -> dict[str, str]:
        urls = {name: f"http://{LOOPBACK}:{self.settings.port_of(name)}" for name in SERVICES}
        return urls | {"kafka": self.bootstrap, "mail": self.smtp_url, "logs": str(self.home.logs)}

    def _own_ports(self) -> dict[str, list[int]]:
        """Of each service's processes, in their order."""
        ports: dict[str, list[int]] = {}
        for replica in sorted(self.replicas):
            port = self.settings.own_port_of(replica.service, replica.number)
            ports.setdefault(replica.service, []).append(port)
        return ports

    def _write_observer_file(self, postgres: Postgres | None) -> None:
        """For debuggers and checkers: sees everything that is no secret, and changes nothing."""
        databases = (
            {name: postgres.observer_url(urlsplit(self.owner_urls[name]).path[1:]) for name in SERVICES}
            if postgres
            else {}
        )
        kafka = self.kafka_access[OBSERVER].told()
        write_secret(self.home.observer_file, {"kafka": kafka, "databases": databases})

    def _write_run_file(self) -> None:
        self.home.write_run_file(
            {
                "pid": os.getpid(),
                "port_base": self.settings.port_base,
                "bootstrap": self.bootstrap,
                "kafka_users": {who: access.username for who, access in self.kafka_access.items()},
                "observer": str(self.home.observer_file),
                "topic_prefix": self.settings.topic_prefix,
                "partitions": self.settings.partitions,
                "decide_within": self.settings.decide_within,
                "currency": self.settings.currency,
                "owner_urls": self.owner_urls,
                "runtime_urls": self.runtime_urls,
                "smtp_url": self.smtp_url,
                "maildir": str(self.home.maildir) if "mail" in self.parts else None,
                "urls": self._urls(),
                "ports": {name: self.settings.port_of(name) for name in SERVICES},
                "own_ports": self._own_ports(),
                "pids": {name: part.pid for name, part in self.parts.items()},
            }
        )


def migrate_external(service: str, url: str, runtime_role: str | None = None) -> None:
    """`Unavailable`, naming the setting, where the database cannot be used."""
    try:
        migrate(service, url, runtime_role)
    except (SQLAlchemyError, psycopg.Error) as error:
        reason = str(error).splitlines()[0].partition(") ")[2] or type(error).__name__
        raise Unavailable(f"{service.upper()}_DATABASE_URL cannot be used: {reason}; correct it.") from error


def external_databases(settings: Settings) -> dict[str, str]:
    """By service; empty if all are ours."""
    given = {service: url for service in SERVICES if (url := settings.database_url_of(service))}
    if given and len(given) < len(SERVICES):
        missing = " and ".join(f"{name.upper()}_DATABASE_URL" for name in SERVICES if name not in given)
        raise Unavailable(f"{missing} not set but others are: set all four, or none to use our own.")
    return given
