"""Bearer tokens: JWT signed with Ed25519, verified with keys that were published as facts."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.utils import base64url_decode, base64url_encode

from choreo.chassis.http.problems import Problem, unauthorized, unavailable

Jwk = Mapping[str, str]

ALGORITHM = "EdDSA"
ISSUER = "urn:choreo:tokens"
AUDIENCE = "urn:choreo:services"
LIFETIME = 15 * 60
"""Seconds a token is good for."""

LEEWAY = 10
"""Seconds by which clocks may differ."""

_LONGEST_HEADER = 4096
_KID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CHECKED_HERE = {
    "require": ["exp", "iat", "iss", "aud", "sub"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}
"""PyJWT reads the machine's clock; we are given one. So it checks all but the times."""


@dataclass(frozen=True, slots=True)
class Principal:
    user_id: UUID


class KeySource(Protocol):
    """The public keys this service has heard of. A key that is no longer valid is not found."""

    async def find(self, kid: str) -> Jwk | None:
        """Looks in the database."""

    async def wait_for(self, kid: str, timeout: float) -> Jwk | None:
        """Returns as soon as the key is heard, or `None` after `timeout` seconds."""

    async def lags(self) -> bool:
        """Whether keys may have been published that this service has not heard yet."""


class SessionSource(Protocol):
    """Whose tokens of before are good no more."""

    async def not_before(self, user_id: UUID) -> float | None:
        """In seconds since the epoch; None where they all are."""


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    issued: float
    expires: float


class Verifier:
    """Turns an `Authorization` header into a principal, or raises the problem to answer with.

    A verified token is remembered until it expires: checking a signature costs 200 µs. Whether its session
    was ended is asked each time.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        sessions: SessionSource | None = None,
        now: Callable[[], float] = time.time,
        key_timeout: float = 2.0,
        most_remembered: int = 10_000,
        most_waiting: int = 64,
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._now = now
        self._key_timeout = key_timeout
        self._remembered: dict[str, _Verified] = {}
        self._most_remembered = most_remembered
        self._waiting = 0
        self._most_waiting = most_waiting

    def user_of(self, authorization: bytes | None) -> UUID | None:
        """Whose token this is, if it was verified before. Nothing more is promised of it."""
        try:
            known = self._remembered.get(_bearer_token(authorization or b""))
        except Problem:
            return None
        return known.principal.user_id if known else None

    async def principal(self, authorization: bytes | None) -> Principal:
        """Raises 401; 503 if the key is unknown and `user-events` is not read to its end."""
        if authorization is None:
            raise unauthorized()
        token = _bearer_token(authorization)
        known = self._remembered.get(token)
        if known is None or known.expires <= self._now():
            self._remembered.pop(token, None)
            known = await self._verify(token)
            while len(self._remembered) >= self._most_remembered:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[token] = known
        ended = await self._sessions.not_before(known.principal.user_id) if self._sessions else None
        if ended is not None and known.issued <= ended:
            raise unauthorized("This session was ended; log in again.", token_given=True)
        return known.principal

    async def _verify(self, token: str) -> _Verified:
        key = await self._key(_key_id(token))
        try:
            claims = jwt.decode(
                token,
                _public_key(key),
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options=_CHECKED_HERE,  # type: ignore[arg-type]
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            raise unauthorized(token_given=True) from None
        expires, user_id = self._expiry(claims), _user_id(claims)
        if expires is None or user_id is None:
            raise unauthorized(token_given=True)
        return _Verified(Principal(user_id), claims["iat"], expires)

    async def _key(self, kid: str) -> Jwk:
        key = await self._keys.find(kid)
        if key is None and self._waiting < self._most_waiting:
            # Bounded, so that made-up key ids cannot hold every connection for `key_timeout` seconds.
            self._waiting += 1
            try:
                key = await self._keys.wait_for(kid, self._key_timeout)
            finally:
                self._waiting -= 1
        if key is not None:
            return key
        if await self._keys.lags():
            raise unavailable(
                "This service has not heard of all signing keys yet; try again soon. If it stays so, its "
                "/health/ready says why.",
                code="keys_late",
            )
        raise unauthorized(token_given=True)

    def _expiry(self, claims: Mapping[str, Any]) -> float | None:
        now = self._now()
        times = [claims["exp"], claims["iat"], claims.get("nbf", claims["iat"])]
        if not all(type(moment) in (int, float) and abs(moment) < 2**53 for moment in times):
            return None
        expires, issued, not_before = times
        if max(issued, not_before) > now + LEEWAY or expires + LEEWAY <= now:
            return None
        if expires - issued > LIFETIME:
            return None  # none of ours: a stolen key is of no use for longer than it is good
        return float(expires + LEEWAY)


def _bearer_token(authorization: bytes) -> str:
    scheme, _, token = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or len(authorization) > _LONGEST_HEADER:
        raise unauthorized()
    return token.strip(" ")


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise unauthorized(token_given=True) from None
    kid = header.get("kid")
    trusted_form = header.get("alg") == ALGORITHM and "crit" not in header
    if not trusted_form or not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise unauthorized(token_given=True)
    return kid


def _public_key(jwk: Jwk) -> Ed25519PublicKey:
    """Raises ValueError where it is no Ed25519 key: a fact may hold anything."""
    if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        raise ValueError("no Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(base64url_decode(jwk.get("x", "")))


def _user_id(claims: Mapping[str, Any]) -> UUID | None:
    try:
        return UUID(claims["sub"])
    except (ValueError, TypeError, AttributeError):
        return None


# Issuing.


def sign(private_key: Jwk, user_id: UUID, *, now: float, lifetime: int = LIFETIME) -> str:
    """A token for this user, good from `now` (seconds since the epoch) for `lifetime` seconds.

    To the microsecond, as whoever logs in again right after ending all sessions has begun a new one.
    """
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user_id),
        "iat": now,
        "exp": int(now) + lifetime,
    }
    key = Ed25519PrivateKey.from_private_bytes(base64url_decode(private_key["d"]))
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": private_key["kid"]})


def generate_key(kid: str) -> Jwk:
    """A new private Ed25519 key as a JWK. Its `d` is a secret."""
    key = Ed25519PrivateKey.generate()
    secret = base64url_encode(key.private_bytes_raw()).decode()
    public = base64url_encode(key.public_key().public_bytes_raw()).decode()
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": public, "d": secret}


def public_part(key: Jwk) -> Jwk:
    """What everyone may know of a key, as published in the key set and in the fact."""
    return {name: key[name] for name in ("kty", "crv", "kid", "x")} | {"use": "sig", "alg": ALGORITHM}
