"""A failpoint is where its name says: a signing key is decided, published and heard, up to there."""

import json
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from choreo.chaos import failpoints
from choreo.chaos.evidence import end_offsets
from choreo.chaos.failpoints import Moment
from choreo.chassis.kafka.handover import Handover
from choreo.chassis.settings import OBSERVER
from choreo.chassis.transaction import journal, outbox
from choreo.chassis.transaction.kernel import Kernel
from tests.shop import Shop, eventually


class Stranger:
    """Stands where the process would end, and sees what anybody could see then."""

    def __init__(self, shop: Shop, directory: Path) -> None:
        self._shop = shop
        self._observer = directory / "observer.json"
        self._observer.write_text(json.dumps({"kafka": shop.kafka.user(OBSERVER).told()}))
        self.seen: tuple[int, ...] = ()

    def look(self) -> None:
        """How much is journaled, in the outbox, on the topic, and read by the order service."""
        self.seen = (
            self._count("user", "SELECT count(*) FROM journal"),
            self._count("user", "SELECT count(*) FROM outbox"),
            self.published(),
            self._count("order", "SELECT coalesce(sum(next_offset), 0) FROM positions"),
        )

    def published(self) -> int:
        settings = self._shop.settings
        facts = {
            "observer": self._observer,
            "topic_prefix": settings.topic_prefix,
            "partitions": settings.partitions,
        }
        return sum(end_offsets(facts).values())

    def _count(self, service: str, query: str) -> int:
        ((count,),) = self._shop.rows(service, query)
        return int(count)


@pytest.mark.parametrize(
    ("moment", "services", "seen"),
    [
        ("inside", ["user"], (0, 0, 0, 0)),
        ("committed", ["user"], (1, 1, 0, 0)),
        ("acknowledged", ["user"], (1, 1, 1, 0)),
        ("offset", ["user", "order"], (1, 0, 1, 1)),
    ],
)
async def test_the_process_ends_at_the_moment_named(
    closed_shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: Moment,
    services: list[str],
    seen: tuple[int, ...],
) -> None:
    for owner, name in ((journal, "add"), (outbox, "remove"), (Kernel, "_tell"), (Handover, "_finished")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is put back
    stranger = Stranger(closed_shop, tmp_path)
    await _topics_are_known(stranger)
    monkeypatch.setattr(failpoints, "_die", stranger.look)
    failpoints.install("any", tmp_path)
    armed = failpoints.file_of(tmp_path, "any", moment)
    armed.parent.mkdir()
    armed.touch()

    await closed_shop.start(*services)

    async def is_armed() -> bool:
        return armed.exists()

    await eventually(is_armed, lambda still: not still)
    assert stranger.seen == seen


async def _topics_are_known(stranger: Stranger) -> None:
    """Just made, they have no leader for a moment."""

    async def known() -> bool:
        try:
            return stranger.published() == 0
        except KafkaException:
            return False

    await eventually(known, bool)
