"""How the way of an event looks."""

import pytest

from choreo.demo.screens import TextScreen
from choreo.replay.trace.hops import Hearing, Hop, Origin, Way
from tests.unit.test_hops import ORDERED

ORIGIN = Origin("order", "PlaceOrder", (Hop("queue", 0.5), Hop("transaction", 1.5), Hop("outbox", 2)))


def shown(capsys: pytest.CaptureFixture[str], origin: Origin | None, *hearings: Hearing) -> list[str]:
    """The lines beneath the event's own, without their columns."""
    TextScreen().event(Way(ORDERED, origin, hearings), 0, "POST /orders", 6.1)
    event, *beneath = capsys.readouterr().out.splitlines()
    assert "OrderCreated" in event and "order-events[3] @17" in event and "+   6.1 ms" in event
    return [" ".join(line.split()) for line in beneath]


def test_each_service_that_hears_it_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    hops = (Hop("broker", 3), Hop("consumer", 0.44), Hop("transaction", 1.9))
    assert shown(
        capsys,
        ORIGIN,
        Hearing("user", 17, "skipped"),
        Hearing("billing", 17, "applied", hops, ("PaymentConfirmed",)),
        Hearing("billing", 19, "duplicate"),
        Hearing("notification", 17, "unread"),
        Hearing("recommendations", 17, "applied"),
    ) == [
        "order decided queue 0.5 transaction 1.5 outbox 2",
        "billing applied broker 3 consumer 0.4 transaction 1.9 → PaymentConfirmed",
        "billing duplicate it lies again at @19",
        "notification unread it has not read as far as @17 yet",
        "recommendations applied",
    ]


def test_what_nobody_hears_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, ORIGIN, Hearing("user", 17, "skipped"))[1:] == ["nobody else hears it"]


def test_figures_have_no_more_places_than_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    hops = (Hop("queue", 0.02), Hop("transaction", None), Hop("outbox", 0))
    (line, _) = shown(capsys, Origin("order", "PlaceOrder", hops))
    assert line == "order decided queue <0.1 transaction \N{EN DASH} outbox <1"


def test_without_journals_the_event_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, None) == []
