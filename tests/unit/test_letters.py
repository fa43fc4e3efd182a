"""A mail is what the `email` package makes of it, byte for byte, whichever way it was made."""

import re
from contextlib import suppress
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from notification_service import letters, texts
from notification_service.letters import letter

ID = UUID(int=1)


def by_the_package(email: str, subject: str, text: str, *, eight_bit: bool) -> bytes:
    local, _, domain = email.rpartition("@")
    message = EmailMessage()
    message["From"] = Address("The Shop", "shop", "choreo.invalid")
    message["To"] = Address(username=local, domain=domain)
    message["Subject"] = subject
    message["Message-ID"] = f"<{ID}@choreo.invalid>"
    message.set_content(text)
    how = policy.SMTP if email.isascii() else policy.SMTPUTF8
    content = message.as_bytes(policy=how if eight_bit else how.clone(cte_type="7bit"))
    return re.sub(rb"\r\n|\r|\n", b"\r\n", content)  # as SMTP has it


def unstuffed(content: bytes) -> bytes:
    """What whoever speaks SMTP reads."""
    assert content.endswith(b"\r\n.\r\n") and content.count(b"\r\n.\r\n") == 1
    assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")
    return content.removesuffix(b".\r\n").replace(b"\r\n.", b"\r\n")


words = st.text(st.sampled_from("aZ09.=?<>@\"\\%() ,;:_+-'~\t\r\näß€\u200b\0"), max_size=90)
plain = st.text(st.sampled_from("aZ0.-+_"), min_size=1, max_size=40)
tokens = st.lists(st.text(st.sampled_from("abc.:%~!="), min_size=1, max_size=30), min_size=1, max_size=12)
addresses = st.builds("{}@{}".format, plain | words, plain | words)
subjects = tokens.map(" ".join) | words
bodies = st.lists(subjects, max_size=14).map("\n".join) | st.lists(subjects).map(
    lambda lines: "\n".join([*lines, ""])
)


@given(addresses, subjects, bodies, st.booleans())
@example("ada@example.com", "s" * 69, "t" * 78 + "\n", True)
@example("ada@example.com", "s" * 70, "t" * 79 + "\n", True)
@example("ada@example.com", "Subject", "t" * (2 * 77 + 78) + "\n" + "t" * (2 * 77 + 79) + "\n", True)
@example("a" * 62 + "@example.com", "Subject", ".\n..\nFrom me\n", False)
@example("a" * 63 + "@example.com", "=?utf-8?q?x?=", "50% off\n", False)
def test_a_letter_is_what_the_package_makes_of_it(
    email: str, subject: str, text: str, eight_bit: bool
) -> None:
    expected = None
    with suppress(Exception):
        expected = by_the_package(email, subject, text, eight_bit=eight_bit)
    try:
        content = letter(ID, email, subject, text, eight_bit=eight_bit)
    except Exception:
        assert expected is None or not letters.is_plain(email)
    else:
        assert unstuffed(content) == expected


@given(addresses)
def test_whoever_reads_a_letter_reads_its_address(email: str) -> None:
    with suppress(Exception):
        content = letter(ID, email, "Subject", "Text\n", eight_bit=True)
        read = message_from_bytes(unstuffed(content), policy=policy.default)
        assert [one.addr_spec for one in read["To"].addresses] == [email]


def test_what_the_shop_writes_needs_no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the package is asked once, and not for each mail."""
    letters._form(quoted=True), letters._form(quoted=False)
    monkeypatch.setattr(letters, "EmailMessage", None)
    who: dict[str, Any] = {"order_id": uuid4(), "user_id": uuid4(), "amount": 999_999_999_99}
    confirmed = PaymentConfirmed(**who, payment_id=uuid4(), balance=0)
    refunded = PaymentRefunded(**who, payment_id=uuid4(), balance=0)
    rejected = PaymentRejected(**who, reason="insufficient_funds", balance=1)
    for text in (
        texts.order_confirmed(confirmed),
        texts.order_rejected(rejected),
        texts.order_cancelled(rejected),
        texts.order_refunded(refunded),
    ):
        letter(ID, "ada.lovelace+shop@mail.example.com", text.subject, text.text, eight_bit=False)
