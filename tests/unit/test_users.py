"""Users: names belong to the first to register them."""

from dataclasses import replace
from datetime import datetime, timedelta
from email import message_from_string
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from unicodedata import normalize

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st
from pydantic import ValidationError

from choreo.chassis.transaction.step import Decider
from choreo.message.envelope import derived_id
from choreo.message.sessions import SessionsEnded
from choreo.message.signing_key import SigningKeyPublished
from events.user import UserRegistered
from tests.unit.facts import ADA, registered
from tests.unit.spec import START, Spec, request
from user_service.api import Registration
from user_service.commands import (
    ChangePassword,
    EmailTaken,
    EndSessions,
    LoginTaken,
    PublishSigningKey,
    Register,
    RetireSigningKey,
)
from user_service.decide import SERVICE, decide
from user_service.evolve import evolve
from user_service.state import User, Users, compared

users = Spec(Decider(SERVICE, decide, evolve), Users())
GRACE = derived_id("user", "grace")


def register(login: str, email: str) -> Register:
    return Register(cause=request(), user_id=GRACE, login=login, email=email, casefold_alone=False)


def publish(**members: str) -> PublishSigningKey:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "AA"} | members
    return PublishSigningKey(cause=request(), kid="k1", public_jwk=jwk, not_after=START + timedelta(days=90))


def retire(kid: str, not_after: datetime) -> RetireSigningKey:
    return RetireSigningKey(cause=request(2), kid=kid, not_after=not_after)


def test_a_user_registers() -> None:
    spec = users.when(register("Grace", "Grace@Example.org")).then(
        UserRegistered(user_id=GRACE, login="Grace", email="Grace@Example.org")
    )
    assert spec.state.users[GRACE] == User(
        id=GRACE,
        login="Grace",
        login_key="grace",
        email="Grace@Example.org",
        email_key="grace@example.org",
        created_at=users.now,
        step=1,
    )


def test_a_login_is_taken_in_whatever_capitals() -> None:
    users.given(registered).when(register("aDA", "grace@example.org")).then_refused(LoginTaken())


def test_an_email_address_is_taken_in_whatever_capitals() -> None:
    users.given(registered).when(register("Grace", "ADA@example.ORG")).then_refused(EmailTaken())


def test_names_that_look_alike_are_one() -> None:
    spec = users.when(register("jos\u00e9", "fin@example.org"))
    for login, email, refusal in (
        ("JOSE\u0301", "a@example.org", LoginTaken()),
        ("grace", "\ufb01n@example.org", EmailTaken()),
    ):
        other = replace(register(login, email), user_id=ADA, cause=request(2))
        spec.when(other).then_refused(refusal)


def test_a_decision_of_before_compares_as_it_did() -> None:
    spec = users.when(register("jos\u00e9", "fin@example.org"))
    other = replace(register("jose\u0301", "a@example.org"), user_id=ADA, cause=request(2))
    spec.when(replace(other, casefold_alone=True)).then(
        UserRegistered(user_id=ADA, login="jose\u0301", email="a@example.org")
    )


@forall(st.text())
def test_what_is_compared_is_compared_to_itself(name: str) -> None:
    for spelling in (compared(name), name.upper(), normalize("NFD", name), normalize("NFKD", name)):
        if spelling.casefold() == name.casefold() or normalize("NFC", spelling) == normalize("NFC", name):
            assert compared(spelling) == compared(name)


@forall(st.emails() | st.builds("{}@example.com".format, st.text(min_size=1, max_size=64)))
def test_an_address_that_is_taken_is_the_one_that_is_mailed(address: str) -> None:
    body = {"login": "ada", "email": address, "password": "correct horse battery"}
    try:
        taken = Registration.model_validate(body).email
    except ValidationError:
        return
    username, _, domain = taken.rpartition("@")
    mail = EmailMessage(policy=SMTPUTF8)
    mail["To"] = Address(username=username, domain=domain)
    read = message_from_string(mail.as_string(), policy=SMTPUTF8)["To"].addresses
    assert [(there.username, there.domain) for there in read] == [(username, domain)]
    assert "=?" not in taken and taken.isprintable()


def test_two_registrations_of_one_name_lock_a_common_key() -> None:
    assert register("Straße", "a@example.org").keys & register("STRASSE", "b@example.org").keys == {
        str(GRACE),
        "login:strasse",
    }
    assert register("a", "A@example.org").keys == {str(GRACE), "login:a", "email:a@example.org"}


@forall(st.text(min_size=1), st.emails())
def test_a_row_and_a_command_compare_names_alike(login: str, email: str) -> None:
    command = register(login, email)
    row = users.when(command).state.users[GRACE]
    assert (row.login_key, row.email_key) == (command.login_key, command.email_key)


def test_a_signing_key_is_published_once() -> None:
    command = publish()
    spec = users.when(command).then(
        SigningKeyPublished(kid="k1", public_jwk=command.public_jwk, not_after=command.not_after)
    )
    assert command.key == spec.history[-1].key == "k1"
    assert spec.state.signing_keys["k1"] == spec.history[-1].data
    spec.when(command).then_nothing()


@pytest.mark.parametrize("command", [ChangePassword, EndSessions])
def test_a_changed_password_ends_what_was_begun_before(command: type[ChangePassword | EndSessions]) -> None:
    fact = SessionsEnded(user_id=ADA, not_before=users.now)
    users.when(command(cause=request(), user_id=ADA)).then(fact)


def test_what_was_ended_stays_ended() -> None:
    later, earlier = (SessionsEnded(user_id=ADA, not_before=START + timedelta(n)) for n in (1, 0))
    assert users.given(later, earlier).state.sessions_ended == later
    assert users.given(earlier, later).state.sessions_ended == later


def test_a_private_key_is_never_published() -> None:
    with pytest.raises(ValueError, match="k1 is private"):
        users.when(publish(d="secret"))


def test_users_of_other_names_do_not_mind_each_other() -> None:
    spec = users.given(registered).when(register("Grace", "grace@example.org"))
    assert set(spec.state.users) == {ADA, GRACE}


def test_a_retired_signing_key_ends_earlier_and_never_later() -> None:
    end = START + timedelta(minutes=17)
    published = publish()
    spec = (
        users.when(published)
        .when(retire("k1", end))
        .then(SigningKeyPublished(kid="k1", public_jwk=published.public_jwk, not_after=end))
    )
    assert spec.state.signing_keys["k1"].not_after == end
    spec.when(retire("k1", end)).then_nothing()
    spec.when(retire("k1", end + timedelta(seconds=1))).then_nothing()
    spec.when(retire("unknown", end)).then_nothing()
