"""Registration and authentication. A password goes no further than this room and comes back as a hash."""

import re
from contextlib import suppress
from datetime import datetime
from email import message_from_string
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import email_validator
from fastapi import Form
from pydantic import AfterValidator, BaseModel, BeforeValidator, EmailStr, Field
from starlette.requests import Request

from choreo.chassis import clock
from choreo.chassis.database.connection import Connection
from choreo.chassis.http.answer import Answer
from choreo.chassis.http.auth import LIFETIME
from choreo.chassis.http.body import Body, refused
from choreo.chassis.http.client_address import Proxies
from choreo.chassis.http.headers import read
from choreo.chassis.http.problems import Problem, not_found, unauthorized
from choreo.chassis.http.routes import FreshCause, KeyedCause, Router, User, example, problem
from choreo.chassis.runtime import Runtime
from choreo.chassis.transaction.inputs import Decided
from choreo.message.envelope import derived_id
from user_service import queries
from user_service.authentication import Authentication, tell
from user_service.commands import ChangePassword, EmailTaken, EndSessions, LoginTaken, Register
from user_service.passwords import COMMONEST, LONGEST, SHORTEST
from user_service.signing import Signer
from user_service.state import Users

_KEEP_PASSWORD = """/* credentials.keep: beside the registration, in the same transaction */
INSERT INTO credentials (user_id, password_hash) VALUES (%s, %s)"""

_CHANGE_PASSWORD = """/* credentials.change: beside the end of the sessions, in the same transaction */
UPDATE credentials SET password_hash = %s WHERE user_id = %s AND password_hash = %s"""


email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()
"""`ada@mail.local` and `ada@shop.test` are addresses; whether mail arrives is for the mail server to say."""


LONGEST_LOGIN = 64
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What `str.isprintable` passes and nobody sees: fillers, joiners, selectors, the empty Braille cell."""


def _visible(name: object) -> object:
    if isinstance(name, str) and (name != name.strip() or not name.isprintable() or _INVISIBLE.search(name)):
        raise refused("Spaces around it, and what nobody sees, are not taken here.")
    return name


def _uncommon(password: str) -> str:
    if password.casefold() in COMMONEST:
        raise refused("This is one of the commonest passwords, which are tried first.")
    return password


def _comes_back(address: str) -> str:
    """What a mail's header would be read as is what was registered: nobody is mailed under another's address.

    `=?utf-8?q?ada?=@example.com` would be, as ada@example.com.
    """
    with suppress(Exception):  # the e-mail package raises whatever it happens to meet
        username, _, domain = address.rpartition("@")
        message = EmailMessage(policy=SMTPUTF8)
        message["To"] = Address(username=username, domain=domain)
        (read,) = message_from_string(message.as_string(), policy=SMTPUTF8)["To"].addresses
        if read.addr_spec == address and "=?" not in address:
            return address
    raise refused("This is not a valid e-mail address.")


Password = Annotated[str, Field(min_length=SHORTEST, max_length=LONGEST), AfterValidator(_uncommon)]


class Registration(Body):
    model_config = example(login="ada", email="ada@example.com", password="correct horse battery")

    login: Annotated[str, Field(min_length=1, max_length=LONGEST_LOGIN), AfterValidator(_visible)]
    email: Annotated[EmailStr, BeforeValidator(_visible), AfterValidator(_comes_back)]
    password: Password


class Login(Body):
    model_config = example(grant_type="password", username="ada", password="correct horse battery")

    grant_type: Literal["password"]
    username: str
    password: Annotated[str, Field(max_length=1000)]


class PasswordChange(Body):
    model_config = example(current="correct horse battery", new="wrong horse battery")

    current: Annotated[str, Field(max_length=1000)]
    new: Password


class UserView(BaseModel):
    model_config = example(
        id="b7841663-98cb-5009-999d-5734b6136895",
        login="ada",
        email="ada@example.com",
        created_at="2026-11-23T12:00:00.120000Z",
    )

    id: UUID
    login: str
    email: str
    created_at: datetime


class TokenView(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = LIFETIME


class PublicKey(BaseModel):
    """RFC 8037."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    kid: str
    x: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class KeySet(BaseModel):
    keys: list[PublicKey]


def public_router(runtime: Runtime[Users], signer: Signer, authentication: Authentication) -> Router:
    routes = Router(public=True)
    proxies = Proxies(runtime.settings.trusted_proxies)
    waiters = runtime.kernel.waiters

    @routes.post(
        "/users",
        status_code=201,
        response_model=UserView,
        responses={409: problem("login or e-mail address taken")},
    )
    async def register(request: Request, cause: FreshCause, registration: Registration) -> Answer:
        """Registers a user. A payment account comes into being with it."""
        user_id = derived_id("user", cause.id)
        command = Register(
            cause=cause,
            user_id=user_id,
            login=registration.login,
            email=registration.email,
            casefold_alone=False,
        )

        address = _address(request, proxies)
        async with waiters.turns.one(address):
            refusal = await queries.taken(runtime.engine, command)
        if refusal is not None:
            return _refused(refusal)
        password_hash = await authentication.passwords.hash(registration.password, address)

        async def keep_password(conn: Connection, _: Decided) -> None:
            await conn.execute(_KEEP_PASSWORD, [user_id, password_hash])

        def registered(decided: Decided) -> Answer:
            if isinstance(decided.refusal, LoginTaken | EmailTaken):
                return _refused(decided.refusal)
            return Answer.json(201, _view(decided.state.users[user_id]))

        answer = await runtime.ask(command, registered, side_write=keep_password)
        if answer.status == 201:
            tell("registered", registration.login, address)
        return answer

    @routes.post(
        "/token",
        responses={
            401: problem("wrong login or password", "WWW-Authenticate"),
            429: problem("too many wrong passwords from this address, or for this login", "Retry-After"),
        },
    )
    async def token(request: Request, login: Annotated[Login, Form()]) -> TokenView:
        """A bearer token for fifteen minutes."""
        wrong = unauthorized("Login or password is wrong.")
        if len(login.username) > LONGEST_LOGIN:
            raise wrong
        address = _address(request, proxies)
        user = await authentication.user_who_knows(login.username, login.password, address, wrong)
        began = await queries.session_start(runtime.engine, user, clock.now)
        if began is None:
            raise wrong
        token = await signer.token(user.id, began)
        tell("logged_in", login.username, address)
        return TokenView(access_token=token)

    @routes.get("/.well-known/jwks.json")
    async def jwks() -> KeySet:
        """The public keys that tokens are verified with."""
        rows = await waiters.look("", partial(queries.published_keys, runtime.engine, clock.now()), of="jwks")
        return KeySet(keys=[PublicKey.model_validate(row.public_jwk) for row in rows])

    return routes


def router(runtime: Runtime[Users], authentication: Authentication) -> Router:
    routes = Router()
    proxies = Proxies(runtime.settings.trusted_proxies)

    async def who(user: User) -> Any:
        row = await queries.user_of(runtime.engine, user.user_id)
        if row is None:
            raise not_found()
        return row

    @routes.get("/users/me", responses={404: problem("the registration has not arrived here")})
    async def me(user: User) -> UserView:
        """Who the token is for, as at registration."""
        return _view(await who(user))

    @routes.put(
        "/users/me/password",
        status_code=204,
        responses={
            403: problem("wrong current password, which counts as a failed login"),
            404: problem("the registration has not arrived here"),
            429: problem("too many wrong passwords from this address, or for this login", "Retry-After"),
        },
    )
    async def change_password(
        request: Request, user: User, cause: FreshCause, change: PasswordChange
    ) -> Answer:
        """Another password. Every token issued before is refused from now on."""
        login = (await who(user)).login
        wrong = Problem(403, "wrong_password", "The current password is wrong.")
        address = _address(request, proxies)
        known = await authentication.user_who_knows(login, change.current, address, wrong)
        if known.id != user.user_id:
            raise wrong
        password_hash = await authentication.passwords.hash(change.new, address)
        changed = 0

        async def keep_password(conn: Connection, _: Decided) -> None:
            nonlocal changed
            values = [password_hash, user.user_id, known.password_hash]
            changed = (await conn.execute(_CHANGE_PASSWORD, values)).rowcount

        command = ChangePassword(cause=cause, user_id=user.user_id)
        answer = await runtime.ask(command, _done, side_write=keep_password)
        if not changed:
            raise wrong  # somebody else was faster
        tell("password_changed", login, address)
        return answer

    @routes.post(
        "/users/me/sessions/end",
        status_code=204,
        responses={404: problem("the registration has not arrived here")},
    )
    async def end_sessions(request: Request, user: User, cause: KeyedCause) -> Answer:
        """Every token issued before, this one included, is refused from now on."""
        login = (await who(user)).login
        answer = await runtime.ask(EndSessions(cause=cause, user_id=user.user_id), _done)
        tell("sessions_ended", login, _address(request, proxies))
        return answer

    return routes


def _address(request: Request, proxies: Proxies) -> str:
    return proxies.client(request.client.host if request.client else "", read(request.scope["headers"]))


def _done(_: Decided) -> Answer:
    return Answer(204, b"")


def _refused(refusal: LoginTaken | EmailTaken) -> Answer:
    match refusal:
        case LoginTaken():
            return Problem(409, "login_taken", "Somebody has this login.").answer()
        case EmailTaken():
            return Problem(409, "email_taken", "Somebody has this e-mail address.").answer()


def _view(user: Any) -> UserView:
    return UserView.model_validate(user, from_attributes=True)
