"""I1: money is conserved. I4: no balance is below zero, ever."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from choreo.chaos.history import Row
from choreo.chaos.judging.case import Case
from choreo.chaos.judging.fold import GAIN
from choreo.chaos.judging.log import Log


def is_conserved(case: Case) -> Iterator[str]:
    ledger = case.rows("billing", "ledger")
    yield from _entries_balance(ledger)
    for source, moved in (("the ledger", _moved_in(ledger)), ("the facts", _moved_by(case.log))):
        for account in case.rows("billing", "accounts"):
            if moved[account["user_id"]] != account["balance"]:
                yield (
                    f"the account of {account['user_id']} holds {account['balance']}, "
                    f"and by {source} it holds {moved[account['user_id']]}"
                )
    yield from _told_balances_are_right(case.log)


def is_never_overdrawn(case: Case) -> Iterator[str]:
    for table in ("accounts", "ledger"):
        for row in case.rows("billing", table):
            if row["balance"] < 0:
                yield f"a row of billing.{table} of {row['user_id']} has a balance of {row['balance']}"
    for event in case.log.of(*GAIN, "PaymentRejected"):
        if event.data["balance"] < 0:
            yield f"{event.name} of {event.key} tells a balance of {event.data['balance']}"


def _entries_balance(ledger: Sequence[Row]) -> Iterator[str]:
    entries: dict[str, list[int]] = defaultdict(list)
    for leg in ledger:
        entries[leg["entry_id"]].append(leg["amount"])
    for entry, amounts in entries.items():
        if len(amounts) != 2 or sum(amounts) != 0:
            yield f"ledger entry {entry} has legs of {amounts}, which are not two that sum to zero"
    if total := sum(leg["amount"] for leg in ledger):
        yield f"the ledger sums to {total} instead of zero"


def _moved_in(ledger: Sequence[Row]) -> Counter[str]:
    """What each user's account holds by it."""
    moved: Counter[str] = Counter()
    for leg in ledger:
        if leg["side"] == "customer":
            moved[leg["user_id"]] += leg["amount"]
    return moved


def _moved_by(log: Log) -> Counter[str]:
    """Deposits less withdrawals less payments, and refunds."""
    moved: Counter[str] = Counter()
    for event in log.of(*GAIN):
        moved[event.key] += GAIN[event.type] * event.data["amount"]
    return moved


def _told_balances_are_right(log: Log) -> Iterator[str]:
    """One that is wrong is believed from there on, so that it is named once."""
    balances: Counter[str] = Counter()
    for event in log.of(*GAIN, "PaymentRejected"):
        told = event.data["balance"]
        right = balances[event.key] + GAIN.get(event.type, 0) * event.data["amount"]
        if told != right:
            yield f"{event.name} of {event.key} tells a balance of {told}, and it is {right}"
        balances[event.key] = told
