"""Who may have a password looked at next, and whose address that is."""

import asyncio
from contextlib import ExitStack

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError

from choreo.chassis.http.client_address import Proxies
from choreo.chassis.http.problems import Problem
from user_service.login_limit import _pair
from user_service.passwords import MOST_OF_ADDRESS, MOST_QUEUED, Passwords, Turns


async def test_who_is_known_comes_before_strangers_and_each_in_turn() -> None:
    turns, order = Turns(1), []
    await turns.begin(known=False)

    async def come(name: str, known: bool) -> None:
        await turns.begin(known)
        order.append(name)
        turns.end()

    names = {"stranger 1": False, "stranger 2": False, "known 1": True, "stranger 3": False, "known 2": True}
    coming = [asyncio.create_task(come(*one)) for one in names.items()]
    await asyncio.sleep(0)
    turns.end()
    await asyncio.gather(*coming)
    assert order == ["known 1", "known 2", "stranger 1", "stranger 2", "stranger 3"]


async def test_no_more_than_so_many_have_a_turn_and_who_leaves_gives_his_on() -> None:
    turns = Turns(2)
    for _ in range(2):
        await turns.begin(known=True)
    waiting = [asyncio.create_task(turns.begin(known=False)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    waiting[0].cancel()
    turns.end()
    waiting[1].cancel()  # whose turn it is by now
    await asyncio.wait(waiting)
    assert [one.cancelled() for one in waiting] == [True, True, False]


def test_no_address_holds_more_than_a_quarter_and_the_known_have_places_of_their_own() -> None:
    turns = Turns(1)
    with ExitStack() as held:

        def refused(address: str, known: bool = False) -> bool:
            try:
                held.enter_context(turns.place(address, known))
            except Problem as problem:
                return (problem.status, "Retry-After" in problem.headers) == (503, True)
            return False

        assert not any(refused("one") for _ in range(MOST_OF_ADDRESS))
        assert refused("one") and not refused("one", known=True)
        assert not any(refused(str(number)) for number in range(MOST_QUEUED - MOST_OF_ADDRESS))
        assert refused("another")
        assert not refused("another", known=True)
    assert not turns._held
    with turns.place("one", known=False):
        pass


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("10.0.0.1", {b"x-forwarded-for": b"192.0.2.1"}, "192.0.2.1"),
        ("10.0.0.1", {b"x-forwarded-for": b"1.1.1.1, 192.0.2.1, 10.0.0.2"}, "192.0.2.1"),
        ("10.0.0.1", {b"x-forwarded-for": b"10.0.0.3, 10.0.0.2"}, "10.0.0.3"),
        ("10.0.0.1", {b"x-forwarded-for": b"192.0.2.1, nonsense"}, "10.0.0.1"),
        ("10.0.0.1", {b"x-forwarded-for": b""}, "10.0.0.1"),
        ("10.0.0.1", {}, "10.0.0.1"),
        ("10.0.0.1", {b"forwarded": b'for=192.0.2.1;proto=http, for="[2001:db8::1]:4711"'}, "2001:db8::1"),
        ("10.0.0.1", {b"forwarded": b"For=192.0.2.1:80"}, "192.0.2.1"),
        ("::ffff:10.0.0.1", {b"x-forwarded-for": b"::ffff:192.0.2.1, ::ffff:10.0.0.2"}, "192.0.2.1"),
        ("10.0.0.1", {b"forwarded": b"for=unknown"}, "10.0.0.1"),
        ("10.0.0.1", {b"forwarded": b"for=192.0.2.1", b"x-forwarded-for": b"192.0.2.1"}, "10.0.0.1"),
        ("192.0.2.9", {b"x-forwarded-for": b"192.0.2.1"}, "192.0.2.9"),
        ("", {b"x-forwarded-for": b"192.0.2.1"}, ""),
    ],
)
def test_a_trusted_proxy_is_believed_and_nobody_behind_the_last(
    peer: str, headers: dict[bytes, bytes], client: str
) -> None:
    assert Proxies("10.0.0.0/8, ::1").client(peer, headers) == client


def test_addresses_count_by_what_one_customer_has_of_them() -> None:
    one = [_pair("ada", address) for address in ("2001:db8::1", "2001:db8::ffff:2")]
    assert one[0] == one[1] != _pair("ada", "2001:db8:0:1::1")
    mapped, plain, other = (_pair("ada", at) for at in ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"))
    assert mapped == plain != other


async def test_an_unknown_login_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def verify(self: PasswordHasher, stored: str, password: str) -> bool:
        checked.append(extract_parameters(stored))
        raise VerifyMismatchError

    passwords = Passwords()
    known = await passwords.hash("somebody has this password")
    monkeypatch.setattr(PasswordHasher, "verify", verify)
    for stored in (known, None):
        assert not await passwords.matches(stored, "wrong")
    passwords.close()
    assert len(checked) == 2 and checked[0] == checked[1]


def test_what_is_no_network_is_told() -> None:
    with pytest.raises(ValueError, match="has host bits set"):
        Proxies("10.0.0.1/8")
