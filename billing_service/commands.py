"""What billing can be asked to do."""

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from choreo.message.decider import Refusal, UserCommand
from choreo.message.fact import Amount, Balance


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAccount(UserCommand):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit(UserCommand):
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw(UserCommand):
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidePayment(UserCommand):
    order_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoPayment(UserCommand):
    """Its order is cancelled."""

    order_id: UUID


Commands = Deposit | Withdraw
"""From outside."""
Reactions = OpenAccount | DecidePayment | UndoPayment
"""What a fact moves billing to decide."""


@dataclass(frozen=True, slots=True)
class NoAccount(Refusal):
    """The account is not there yet: the registration is on its way, or there was none."""

    remembered: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class InsufficientFunds(Refusal):
    balance: Balance
    requested: Amount
