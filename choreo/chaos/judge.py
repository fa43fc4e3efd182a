"""The judge: does what can be seen from outside keep the promises? It knows the contract and no service code.

Not judged, because topics and tables cannot say it:

* whether two mails of one notification were needed. Several with one `Message-ID` are allowed, after a crash
  or a lost lease between the mail server's answer and its record; `repeats` counts them.
* the wording of notifications. They have to name the order, its money and the balance.
* what services decide that it does not know: see `unknown`.
* which id a notification has. It has to be the same in its row, its fact and its mails.

A key with events that are parked or were dropped, in any service, is excepted everywhere from what asks for
completeness: something of it is yet to be done. What must never happen must not happen to it either.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from choreo.chaos.history import History
from choreo.chaos.judging import delivery, money, outcomes, requests, rows
from choreo.chaos.judging.case import CONSUMED, Case

PROMISES: Mapping[str, Callable[[Case], Iterator[str]]] = {
    "I1": money.is_conserved,
    "I2": outcomes.are_single,
    "I3": outcomes.are_told_once,
    "I4": money.is_never_overdrawn,
    "I5": rows.follow_from_the_log,
    "I6": requests.have_their_effect,
    "I7": delivery.is_complete,
    "I8": delivery.is_in_order,
}
"""How each is checked: a sentence for every breach."""


@dataclass(frozen=True, slots=True)
class Violation:
    promise: str
    """I1 to I8, or in a word what else was promised."""
    text: str
    """A sentence with ids and figures."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """Allowed, and worth knowing."""

    records: int
    mails: int


def judge(history: History) -> list[Violation]:
    """Every breach of a promise that this history shows; none if it keeps them all."""
    case = Case(history)
    return [Violation(promise, text) for promise, check in PROMISES.items() for text in check(case)]


def unknown(history: History) -> list[str]:
    """Services that are there and of which it knows nothing, so that nothing of theirs is judged."""
    return sorted(history.tables.keys() - CONSUMED.keys())


def repeats(history: History) -> Repeats:
    """How many records and mails had been there before."""
    mails = [message_id for message_id, _ in history.mails]
    return Repeats(len(Case(history).log.repeats), len(mails) - len(set(mails)))
