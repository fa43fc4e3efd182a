"""Registration and authentication. A password goes no further than this room and comes back as a hash."""

import re
from contextlib import suppress
from datetime import datetime
from email import message_from_string
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
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
from choreo.chassis.http.routes import FreshCause, Router, User, example, problem
from choreo.chassis.runtime import Runtime
from choreo.chassis.transaction.inputs import Decided
from choreo.message.envelope import derived_id
from user_service import queries
from user_service.commands import EmailTaken, LoginTaken, Register
from user_service.login_limit import LoginLimit
from user_service.passwords import Passwords
from user_service.signing import Signer
from user_service.state import Users

_KEEP_PASSWORD = """/* credentials.keep: beside the registration, in the same transaction */
INSERT INTO credentials (user_id, password_hash) VALUES (%s, %s)"""


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


class Registration(Body):
    model_config = example(login="ada", email="ada@example.com", password="correct horse battery")

    login: Annotated[str, Field(min_length=1, max_length=LONGEST_LOGIN), AfterValidator(_visible)]
    email: Annotated[EmailStr, BeforeValidator(_visible), AfterValidator(_comes_back)]
    password: Annotated[str, Field(min_length=8, max_length=128)]


class Login(Body):
    model_config = example(grant_type="password", username="ada", password="correct horse battery")

    grant_type: Literal["password"]
    username: str
    password: Annotated[str, Field(max_length=1000)]


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


def public_router(runtime: Runtime[Users], signer: Signer, passwords: Passwords, limit: LoginLimit) -> Router:
    routes = Router(public=True)
    proxies = Proxies(runtime.settings.trusted_proxies)

    def address_of(request: Request) -> str:
        return proxies.client(request.client.host if request.client else "", read(request.scope["headers"]))

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

        refusal = await queries.taken(runtime.engine, command)
        if refusal is not None:
            return _refused(refusal)
        password_hash = await passwords.hash(registration.password, address_of(request))

        async def keep_password(conn: Connection, _: Decided) -> None:
            await conn.execute(_KEEP_PASSWORD, [user_id, password_hash])

        def registered(decided: Decided) -> Answer:
            if isinstance(decided.refusal, LoginTaken | EmailTaken):
                return _refused(decided.refusal)
            return Answer.json(201, _view(decided.state.users[user_id]))

        return await runtime.ask(command, registered, side_write=keep_password)

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
        address = address_of(request)
        known = await limit.knows(login.username, address)
        with passwords.checks.place(address, known):
            async with limit.attempt(login.username, address, known) as attempt:
                user = await queries.credentials_of(runtime.engine, login.username)
                stored = user.password_hash if user else None
                if not await passwords.matches(stored, login.password, known):
                    attempt.failed()
                    raise wrong
                await attempt.succeeded()
        return TokenView(access_token=await signer.token(user.id))

    @routes.get("/.well-known/jwks.json")
    async def jwks() -> KeySet:
        """The public keys that tokens are verified with."""
        rows = await queries.published_keys(runtime.engine, clock.now())
        return KeySet(keys=[PublicKey.model_validate(row.public_jwk) for row in rows])

    return routes


def router(runtime: Runtime[Users]) -> Router:
    routes = Router()

    @routes.get("/users/me", responses={404: problem("the registration has not arrived here")})
    async def me(user: User) -> UserView:
        """Who the token is for, as at registration."""
        row = await queries.user_of(runtime.engine, user.user_id)
        if row is None:
            raise not_found()
        return _view(row)

    return routes


def _refused(refusal: LoginTaken | EmailTaken) -> Answer:
    match refusal:
        case LoginTaken():
            return Problem(409, "login_taken", "Somebody has this login.").answer()
        case EmailTaken():
            return Problem(409, "email_taken", "Somebody has this e-mail address.").answer()


def _view(user: Any) -> UserView:
    return UserView.model_validate(user, from_attributes=True)
