"""Who says that it is ready while it does not get on is told, and nobody else."""

from collections.abc import Hashable, Mapping

import pytest

from choreo.chaos.judging.stalls import LOOKS, Look, Stalls, Work

UNREAD: Work = ("billing", "unread records")
MAILS: Work = ("notification", "pending mails")


def told(*looks: tuple[str, Mapping[Work, Hashable]]) -> list[str]:
    """What is said of looks in which these services said that they are ready, and had this to do."""
    stalls = Stalls()
    return [text for ready, work in looks for text in stalls.judge(Look(frozenset(ready.split()), work))]


def test_work_that_stays_as_it_is_while_its_service_is_ready_is_told_once() -> None:
    (said,) = told(*[("billing", {UNREAD: 7})] * (2 * LOOKS))
    assert said == f"billing said for {LOOKS} s that it is ready, and did not get on with unread records"


@pytest.mark.parametrize(
    "between",
    [
        ("billing", {UNREAD: 8}),
        ("billing", {}),
        ("order", {UNREAD: 7}),
        ("", {UNREAD: 7}),
    ],
    ids=["it got on", "it was done", "another is ready", "it said that it is not"],
)
def test_a_stall_begins_anew(between: tuple[str, Mapping[Work, Hashable]]) -> None:
    still = ("billing", {UNREAD: 7})
    assert told(*[still] * (LOOKS - 1), between, *[still] * (LOOKS - 1)) == []
    assert len(told(*[still] * (LOOKS - 1), between, *[still] * LOOKS)) == 1


def test_each_kind_of_work_is_looked_at_by_itself() -> None:
    looks = [("billing notification", {UNREAD: 7, MAILS: number}) for number in range(2 * LOOKS)]
    (said,) = told(*looks)
    assert "billing" in said
