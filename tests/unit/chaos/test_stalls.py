"""Who says that it is ready while it does not get on is told, and nobody else."""

from collections.abc import Hashable, Mapping

import pytest

from choreo.chaos.judging.stalls import STALLED_SECONDS, Look, Stalls, Work

UNREAD: Work = ("billing", "unread records")
MAILS: Work = ("notification", "pending mails")
SECONDS = int(STALLED_SECONDS)

Seen = tuple[str, Mapping[Work, Hashable]]
"""Which services said that they are ready, and what there was to do."""
STILL: Seen = ("billing", {UNREAD: 7})


def told(*looks: Seen, every: float = 1.0) -> list[str]:
    """What is said of these looks, of which there is one every so many seconds."""
    stalls = Stalls()
    return [
        text
        for number, (ready, work) in enumerate(looks)
        for text in stalls.judge(Look(1000 + number * every, frozenset(ready.split()), work))
    ]


@pytest.mark.parametrize("every", [0.5, 1.0, 3.0])
def test_work_that_stays_as_it_is_while_its_service_is_ready_is_told_once(every: float) -> None:
    """However often one looks."""
    looks = [STILL] * int(2 * SECONDS / every + 1)
    (said,) = told(*looks, every=every)
    assert said == f"billing said for {SECONDS} s that it is ready, and did not get on with unread records"


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
def test_a_stall_begins_anew(between: Seen) -> None:
    assert told(*[STILL] * SECONDS, between, *[STILL] * SECONDS) == []
    assert len(told(*[STILL] * SECONDS, between, *[STILL] * (SECONDS + 1))) == 1


def test_each_kind_of_work_is_looked_at_by_itself() -> None:
    looks = [("billing notification", {UNREAD: 7, MAILS: number}) for number in range(2 * SECONDS)]
    (said,) = told(*looks)
    assert "billing" in said


def test_who_did_not_look_says_nothing() -> None:
    assert told(*[STILL] * 10, every=11.0) == []
