"""Each service does its own work on Kafka, and nobody else's. What it may not do and must is named."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclBindingFilter, AdminClient, ResourcePatternType
from pydantic import SecretStr

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin import acls as grants
from choreo.chassis.kafka.admin.client import administering
from choreo.chassis.kafka.grants import Grant
from choreo.chassis.settings import OBSERVER
from choreo.embedded.kafka import Kafka
from choreo.operations.principals import grants_of_all, topic_names
from choreo.operations.reading.checkup import examine
from tests.brokers import Broker
from tests.services import SERVICES, TOPICS
from tests.shop import PATIENCE, Shop, eventually

HEARS: Mapping[str, set[str]] = {
    "user": set(),
    "order": {"user", "billing"},
    "billing": {"user", "order"},
    "notification": {"user", "billing"},
    OBSERVER: set(SERVICES),
}
"""Whose topics each reads. Said once more, so that a grant too much in the code is one too much here."""


class Client:
    """One principal's, with a library's clients and no more than its own name and password."""

    def __init__(self, shop: Shop, who: str) -> None:
        self.prefix = shop.settings.topic_prefix
        self.access: KafkaAccess = shop.kafka.user(who)

    async def may_write(self, service: str) -> bool:
        async with AIOKafkaProducer(**self.access.aiokafka()) as producer:
            try:
                await producer.send_and_wait(self.prefix + TOPICS[service], b"a record", partition=0)
            except TopicAuthorizationFailedError:
                return False
        return True

    async def may_read(self, service: str) -> bool:
        """There is a record."""
        topic = self.prefix + TOPICS[service]
        async with AIOKafkaConsumer(**self.access.aiokafka(), auto_offset_reset="earliest") as reader:
            if topic not in await reader.topics():  # those that may be seen at all
                return False
            reader.assign([TopicPartition(topic, 0)])
            try:
                async with asyncio.timeout(PATIENCE):
                    await reader.getone()
            except TopicAuthorizationFailedError:
                return False
        return True

    async def may_join(self, service: str) -> bool:
        """Its group, as a member that is given records."""
        member = AIOKafkaConsumer(
            **self.access.aiokafka(),
            group_id=f"{self.prefix}{service}-service",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await member.start()
        try:
            member.subscribe([self.prefix + TOPICS["user"]])
            async with asyncio.timeout(PATIENCE):
                await member.getone()
        except GroupAuthorizationFailedError:
            return False
        finally:
            await member.stop()
        return True

    async def may_delete(self, service: str) -> bool:
        topic = self.prefix + TOPICS[service]
        admin = AdminClient(self.access.confluent())
        done = admin.delete_topics([topic])[topic]
        try:
            await asyncio.to_thread(done.result, PATIENCE)
        except KafkaException as error:
            assert error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
            return False
        return True


@pytest.fixture(autouse=True)
def _asks_for_names(kafka: Broker) -> None:
    if not isinstance(kafka, Kafka):
        pytest.skip("a Kafka in Docker asks nobody for a name")


@pytest.fixture
async def written(closed_shop: Shop) -> Shop:
    """Nothing runs, and there is a record in every topic."""
    async with AIOKafkaProducer(**closed_shop.kafka.admin.aiokafka()) as producer:
        for topic in topic_names(closed_shop.settings):
            await producer.send_and_wait(topic, b"a record", partition=0)
    return closed_shop


@pytest.mark.parametrize("who", HEARS)
async def test_nobody_can_do_anothers_work(written: Shop, who: str) -> None:
    client = Client(written, who)
    assert {to for to in SERVICES if await client.may_write(to)} == {who} & set(SERVICES)
    assert {of for of in SERVICES if await client.may_read(of)} == HEARS[who]
    own_group = {who} if HEARS[who] and who in SERVICES else set()
    assert {of for of in SERVICES if await client.may_join(of)} == own_group
    assert {of for of in SERVICES if await client.may_delete(of)} == set()


def grant_more(shop: Shop, wanted: Mapping[str, Collection[Grant]]) -> None:
    assert isinstance(shop.kafka, Kafka)
    shop.kafka.admit(wanted)


MISSING: Mapping[str, Callable[[str], Grant]] = {
    "a topic to write": lambda prefix: Grant("WRITE", "topic", prefix + TOPICS["billing"]),
    "a topic to read": lambda prefix: Grant("READ", "topic", prefix + TOPICS["order"]),
    "a group": lambda prefix: Grant("READ", "group", f"{prefix}billing-service"),
}


@pytest.mark.parametrize("grant_in", MISSING.values(), ids=MISSING)
async def test_a_missing_grant_is_named_until_it_is_there(
    closed_shop: Shop, grant_in: Callable[[str], Grant]
) -> None:
    grant = grant_in(closed_shop.settings.topic_prefix)
    await withdraw(closed_shop, grant)
    await closed_shop.begin("billing")
    await says(closed_shop, str(grant))
    await asyncio.to_thread(grant_more, closed_shop, grants_of_all(closed_shop.settings))
    await closed_shop.ready("billing")


async def test_a_grant_that_is_taken_away_is_noticed(closed_shop: Shop) -> None:
    await closed_shop.start("billing")
    grant = MISSING["a topic to read"](closed_shop.settings.topic_prefix)
    await withdraw(closed_shop, grant)
    await says(closed_shop, str(grant))


async def test_a_wrong_password_is_called_so(closed_shop: Shop) -> None:
    passwords = {**closed_shop.settings.kafka_passwords, "billing": SecretStr("another's")}
    closed_shop.settings = closed_shop.settings.model_copy(update={"kafka_passwords": passwords})
    await closed_shop.begin("billing")
    await says(closed_shop, "refuses the name or the password of User:billing", jobs=("broker", "consumer"))


async def test_the_doctor_names_a_grant_that_is_missing_and_one_that_is_too_much(closed_shop: Shop) -> None:
    prefix = closed_shop.settings.topic_prefix
    missing = MISSING["a group"](prefix)
    too_much = Grant("WRITE", "topic", prefix + TOPICS["order"])
    await withdraw(closed_shop, missing)
    await asyncio.to_thread(grant_more, closed_shop, {"billing": [too_much]})
    told = {
        finding.about: finding.says
        for finding in await examine(closed_shop.installation)
        if finding.check == "Kafka grants"
    }
    assert told == {
        **dict.fromkeys(SERVICES, "as they must be"),
        "billing": f"{missing} is missing, {too_much} is too much",
    }


async def test_the_observer_reads_every_table_but_the_secret_ones_and_changes_none(shop: Shop) -> None:
    await shop.customer("1.00")
    for service in SERVICES:
        with psycopg.connect(shop.observer_urls[service], autocommit=True) as conn:
            for table, comment in shop.rows(
                service,
                "SELECT relname, coalesce(obj_description(oid, 'pg_class'), '') FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
            ):
                assert may(conn, f"SELECT * FROM {table}") == (not comment.startswith("secret"))
                assert not may(conn, f"DELETE FROM {table}")
            assert not may(conn, "CREATE TABLE mine (id int)")


def may(conn: psycopg.Connection[Any], statement: str) -> bool:
    try:
        conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


async def withdraw(shop: Shop, grant: Grant) -> None:
    """From billing."""
    binding = grants._binding("User:billing", grant)
    only = AclBindingFilter(
        binding.restype,
        binding.name,
        ResourcePatternType.LITERAL,
        binding.principal,
        "*",
        binding.operation,
        binding.permission_type,
    )
    with administering(shop.kafka.admin) as admin:
        (done,) = admin.delete_acls([only]).values()
        assert len(await asyncio.to_thread(done.result)) == 1


async def says(shop: Shop, sentence: str, jobs: tuple[str, ...] = ()) -> None:
    """Billing's health page does; the jobs named, or any."""

    async def told() -> dict[str, str]:
        answer = await shop.clients["billing"].get("/health/ready")
        return {name: job["cause"] or "" for name, job in answer.json()["jobs"].items()}

    await eventually(
        told,
        lambda found: (
            all(sentence in found[job] for job in jobs) and any(sentence in cause for cause in found.values())
        ),
    )
