"""How a row is made from another."""

from dataclasses import dataclass, field
from dataclasses import replace as by_dataclasses
from typing import Any
from uuid import UUID

import pytest

from billing_service.state import Billing, Payment
from choreo.message.state import replace

PAYMENT = Payment(UUID(int=1), UUID(int=2), 3, "waiting", 4, UUID(int=5), UUID(int=6), "trace")


@dataclass(frozen=True)
class WithoutSlots:
    name: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(self.number)


@dataclass(slots=True)
class Counted:
    number: int
    asked: int = field(default=0, init=False)


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        (PAYMENT, {"outcome": "confirmed", "step": 7}),
        (PAYMENT, {}),
        (Billing(payments={PAYMENT.order_id: PAYMENT}), {"signing_keys": {}, "account": None}),
        (WithoutSlots("ada", 1), {"number": 2}),
        (WithoutSlots("ada", 1), {}),
        (Checked(1), {"number": 2}),
        (Counted(1), {"number": 2}),
    ],
)
def test_a_changed_row_is_another_like_it_whatever_rows_are_kept_in(
    row: Any, changes: dict[str, Any]
) -> None:
    changed = replace(row, **changes)
    assert changed == by_dataclasses(row, **changes)
    assert type(changed) is type(row)
    assert changed is not row


@pytest.mark.parametrize(
    ("row", "changes", "error"),
    [
        (PAYMENT, {"nobody": 1}, TypeError),
        (PAYMENT, {"outcome": "confirmed", "nobody": 1}, TypeError),
        (WithoutSlots("ada"), {"nobody": 1}, TypeError),
        (Checked(1), {"number": -1}, ValueError),
        (Counted(1), {"asked": 1}, ValueError),
        (1, {}, TypeError),
    ],
)
def test_what_is_no_field_is_refused_and_so_is_what_the_row_refuses(
    row: Any, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        replace(row, **changes)
