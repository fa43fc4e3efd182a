"""The table of those who are compared. Another is one more entry, and for a peer a folder in `programs/`."""

from collections.abc import Mapping

from choreo.benchmarks.peers.contender import Contender
from choreo.benchmarks.peers.peer import Peer
from choreo.benchmarks.peers.servers import KafkaServer, RedisServer, RestateServer
from choreo.benchmarks.peers.this_shop import Shop

_API = "uvicorn {module}:app --host 127.0.0.1 --port {{port}} --log-level warning --no-access-log"

_ALL: tuple[Contender, ...] = (
    Shop(
        "collaboration",
        "this shop: services that meet only through Kafka",
        "nothing of what the others do; it also mails every notification, as none of them does",
    ),
    Shop(
        "http",
        "this shop in style http: the same four services call each other, without Kafka",
        "no events for others to hear, no log to replay; whoever calls knows everybody who must be told, and "
        "keeps what they miss; it mails, too",
    ),
    Peer(
        "monolith",
        "one FastAPI process, one Postgres transaction",
        "no services: no part can be deployed, scaled, stopped or owned by itself; nothing is told to "
        "anybody, and nobody can replay what happened",
        {"app": _API.format(module="app")},
        ("fastapi",),
    ),
    Peer(
        "dbos",
        "DBOS: durable workflows in one FastAPI process, checkpoints in Postgres, at most 16 threads",
        "no services, no events for others to hear; the steps of an order are kept, and no facts to rebuild "
        "state from",
        {"app": _API.format(module="app")},
        ("dbos",),
    ),
    Peer(
        "restate",
        "Restate: a durable workflow server that calls the services",
        "a step done but not journaled is done again, so each needs an inbox of one's own; "
        "no log that others can hear or replay",
        {
            "services": "hypercorn services:app --bind 127.0.0.1:{services} --log-level warning",
            "api": _API.format(module="api"),
        },
        ("restate-sdk",),
        RestateServer,
    ),
    Peer(
        "faststream",
        "FastStream on Kafka, as its documentation has it",
        "no outbox (an order can be stored and never told); no inbox; offsets are committed by the "
        "clock, not when a message is handled, so a crash repeats or loses some",
        {
            "orders": _API.format(module="orders"),
            "billing": "faststream run billing:app --log-level warning",
            "notifications": "faststream run notifications:app --log-level warning",
        },
        ("faststream", "aiokafka"),
        KafkaServer,
    ),
    Peer(
        "outbox",
        "plain aiokafka with an outbox and an inbox by hand",
        "one bad message stops its partition, nothing is parked or retried apart; no replay, no check of "
        "the log",
        {
            "orders": _API.format(module="orders"),
            "billing": "python -m billing",
            "notifications": "python -m notifications",
        },
        ("aiokafka",),
        KafkaServer,
    ),
    Peer(
        "dramatiq",
        "Dramatiq: tasks in a queue on Redis, two processes of eight threads, a heartbeat of 5 s",
        "an order can be stored and its task never queued; no order among a customer's tasks; no events, "
        "no replay",
        {
            "api": _API.format(module="api"),
            "workers": "dramatiq tasks --processes 2 --threads 8",
        },
        ("dramatiq",),
        RedisServer,
    ),
)

CONTENDERS: Mapping[str, Contender] = {contender.name: contender for contender in _ALL}
