"""A node of Apache Kafka (KRaft), run as a child process: alone, or one of several."""

import base64
import json
import os
import socket
import struct
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin import acls
from choreo.chassis.kafka.grants import Grant
from choreo.embedded.kafka_runtime import Runtime, prepare
from choreo.embedded.part import Part, signals_held
from choreo.embedded.ports import LOOPBACK, free_ports, require_free
from choreo.embedded.process import Child
from choreo.embedded.secrets import Secrets
from choreo.embedded.unprivileged import make_private

_SETTINGS = {
    "process.roles": "broker,controller",
    "inter.broker.listener.name": "CLIENTS",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CLIENTS:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
    # Services have SCRAM users and ACLs. The admin, who makes those, and the nodes among themselves have a
    # password in this file: it works before there are any users.
    "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "sasl.mechanism.controller.protocol": "PLAIN",
    "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.clients.scram-sha-512.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "false",
    "super.users": "User:admin",
    # Facts are kept for ever and carry the broker's time beside their own.
    "auto.create.topics.enable": "false",
    "log.retention.ms": "-1",
    "log.retention.bytes": "-1",
    "log.message.timestamp.type": "LogAppendTime",
    # One node: nothing to replicate to, few partitions for Kafka's own topics.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # A restart after SIGKILL waits for the old registration to expire: 4 s instead of 11 s. With less a busy
    # machine has the only broker taken for dead.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "num.network.threads": "2",
    "num.io.threads": "4",
}

_OF_SEVERAL = {
    # What is acknowledged is on two of three nodes, so that one may be lost.
    "min.insync.replicas": "2",
    "default.replication.factor": "3",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # A leader that is gone is replaced within a few seconds instead of ten. The controllers keep Kafka's own
    # timeouts: with shorter ones a busy machine has them elect one another without end.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "replica.lag.time.max.ms": "5000",
}

_PASSWORD_LOGIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="admin" password="{password}" user_admin="{password}";'
)

_LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
logger.denied.name = kafka.authorizer.logger
logger.denied.level = info
"""


class Kafka(Part):
    """Durable under `directory`: the cluster's id and every acknowledged record outlive a SIGKILL.

    Listens on the loopback interface only, to nobody without a name and a password; these are in
    `secrets_file`, readable by its owner only. May be started again after it stopped or died. `settings` are
    broker properties that win over those above. `nodes` are broker and controller port of every node, where
    this is the `node`-th, counted from 1, of several; they share the directory above `directory`.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        controller_port: int | None = None,
        *,
        cache: Path,
        log: Path | None = None,
        secrets_file: Path | None = None,
        settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
        runtime: Runtime | None = None,
        jvm_options: tuple[str, ...] = (),
        node: int = 1,
        nodes: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.directory, self.port, self.cache = directory, port, cache
        self.controller_port = controller_port or free_ports(1)[0]
        self._node, self._nodes = node, nodes or [(self.port, self.controller_port)]
        self.name = f"Kafka {node}" if nodes else "Kafka"
        self.log = log or directory / "kafka.log"
        self._secrets = Secrets(secrets_file or directory / "secrets.json")
        self._settings, self._say = settings or {}, say
        self._runtime, self._jvm_options = runtime, jvm_options

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{LOOPBACK}:{port}" for port, _ in self._nodes)

    @property
    def admin(self) -> KafkaAccess:
        """May do everything."""
        return KafkaAccess(self.bootstrap, "SASL_PLAINTEXT", "PLAIN", "admin", self._secrets["admin"])

    def user(self, name: str) -> KafkaAccess:
        """May do what it was granted, once it is admitted."""
        return KafkaAccess(self.bootstrap, "SASL_PLAINTEXT", username=name, password=self._secrets[name])

    def admit(self, wanted: Mapping[str, Collection[Grant]]) -> None:
        """Makes users of these names, and what each may do. Safe to repeat. Raises `Unavailable`."""
        acls.admit(self.admin, {self.user(name): grants for name, grants in wanted.items()})

    def prepare(self) -> Runtime:
        """At the first use of the cache: download Kafka and prepare it, which takes half a minute."""
        if self._runtime is None:
            self._runtime = prepare(self.cache, _train, self._say)
        return self._runtime

    def start(self) -> None:
        runtime = self.prepare()
        require_free(self.port, "Kafka")
        require_free(self.controller_port, "Kafka's controller")
        properties = self._write_configuration()
        logging = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        command = [*runtime.command(*self._jvm_options, logging), "kafka.Kafka", str(properties)]
        # Otherwise Java takes letters of a path that are not of the locale's alphabet for question marks.
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        with signals_held():
            self.child = Child(self.name, command, log=self.log, env=environment)

    def ready(self) -> bool:
        return answers(LOOPBACK, self.port)

    def _write_configuration(self) -> Path:
        data = self.directory / "data"
        make_private(self.directory)
        make_private(data)
        meta = data / "meta.properties"
        if not meta.exists():
            ids = f"cluster.id={self._cluster_id()}\ndirectory.id={_id()}\nnode.id={self._node}"
            _write_aside(meta, f"version=1\n{ids}\n")
        broker, controller = f"{LOOPBACK}:{self.port}", f"{LOOPBACK}:{self.controller_port}"
        login = _PASSWORD_LOGIN.format(password=self._secrets["admin"])
        voters = [f"{n}@{LOOPBACK}:{port}" for n, (_, port) in enumerate(self._nodes, start=1)]
        settings = _SETTINGS | (_OF_SEVERAL if len(self._nodes) > 1 else {})
        settings |= {
            "node.id": str(self._node),
            "log.dirs": str(data),
            "listeners": f"CLIENTS://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"CLIENTS://{broker}",
            "listener.name.clients.plain.sasl.jaas.config": login,
            "listener.name.controller.plain.sasl.jaas.config": login,
            "controller.quorum.voters": ",".join(voters),
            **self._settings,
        }
        (self.directory / "log4j2.properties").write_text(_LOGGING)
        properties = self.directory / "server.properties"
        # Java reads such a file as Latin-1, and knows the same escapes as JSON.
        lines = (f"{name}={json.dumps(value)[1:-1]}" for name, value in settings.items())
        _write_aside(properties, "\n".join(lines) + "\n")
        return properties

    def _cluster_id(self) -> str:
        """The same for all nodes."""
        if len(self._nodes) == 1:
            return _id()
        file = self.directory.parent / "cluster.id"
        if not file.exists():
            _write_aside(file, _id())
        return file.read_text()


def answers(host: str, port: int, timeout: float = 1) -> bool:
    """Whether a Kafka broker there answers an ApiVersions request. Needs no credentials."""
    api_versions, version, correlation, no_client_id = 18, 0, 1, -1
    request = struct.pack(">hhih", api_versions, version, correlation, no_client_id)
    try:
        with socket.create_connection((host, port), timeout) as sock:
            sock.sendall(struct.pack(">i", len(request)) + request)
            return len(sock.recv(16)) > 0
    except OSError:
        return False


def _train(runtime: Runtime, scratch: Path, output: Path) -> None:
    """Start and stop a throw-away Kafka with Java recording what it loads."""
    broker, controller = free_ports(2)
    options = (f"-XX:AOTCacheOutput={output}",)
    kafka = Kafka(scratch / "kafka", broker, controller, cache=scratch, runtime=runtime, jvm_options=options)
    try:
        kafka.start()
        kafka.wait_ready()
        kafka.stop(timeout=60)
    finally:
        if kafka.child:
            kafka.kill()


def _id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def _write_aside(path: Path, text: str) -> None:
    """Readable by the owner only: the admin's password is among the settings."""
    aside = path.with_suffix(".new")
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.replace(path)
