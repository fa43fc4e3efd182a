import asyncio
import base64
import json
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.utils import base64url_decode

from choreo.chassis.http import auth
from choreo.chassis.http.auth import Verifier

pytestmark = pytest.mark.asyncio


def claims(toy: Any, **changes: Any) -> dict[str, Any]:
    good = {
        "iss": auth.ISSUER,
        "aud": auth.AUDIENCE,
        "sub": str(toy.user_id),
        "iat": int(toy.now),
        "exp": int(toy.now) + 60,
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def signed(toy: Any, kid: Any = "first", **changes: Any) -> str:
    key = Ed25519PrivateKey.from_private_bytes(base64url_decode(toy.key["d"]))
    return jwt.encode(claims(toy, **changes), key, algorithm="EdDSA", headers={"kid": kid})


def hand_made(header: Any, content: Any, key: auth.Jwk) -> str:
    """Signed as it should be, whatever it holds."""
    parts = [json.dumps(part).encode() for part in (header, content)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = Ed25519PrivateKey.from_private_bytes(base64url_decode(key["d"])).sign(signed)
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


async def status_with(client: httpx2.AsyncClient, token: str) -> int:
    answer = await client.get("/things", headers={"Authorization": f"Bearer {token}"})
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code


async def test_a_signed_token_is_good_for_its_lifetime(toy: Any, client: httpx2.AsyncClient) -> None:
    token = toy.token()
    assert await status_with(client, token) == 200
    toy.now += auth.LIFETIME + auth.LEEWAY - 1
    assert await status_with(client, token) == 200
    toy.now += 1
    assert await status_with(client, token) == 401
    assert toy.keys.asked_for == ["first", "first"], "verified once, then remembered until it expired"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ...},
        {"iat": ...},
        {"iss": ...},
        {"aud": ...},
        {"sub": ...},
        {"exp": 1},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": float("inf")},
        {"exp": None},
        {"iat": 10**12},
        {"exp": 10**12},
        {"iat": 1},
        {"nbf": 10**12},
        {"nbf": "x"},
        {"iss": "urn:else"},
        {"aud": "urn:else"},
        {"aud": 5},
        {"sub": "ann"},
        {"sub": 5},
    ],
)
async def test_bad_claims(toy: Any, client: httpx2.AsyncClient, changes: dict[str, Any]) -> None:
    assert await status_with(client, signed(toy)) == 200
    header = {"alg": "EdDSA", "kid": "first", "typ": "JWT"}
    assert await status_with(client, hand_made(header, claims(toy, **changes), toy.key)) == 401


async def test_only_our_algorithm(toy: Any, client: httpx2.AsyncClient) -> None:
    public = auth.public_part(toy.key)["x"]
    forgeries: list[tuple[str, Any]] = [
        ("none", None),
        ("HS256", public),
        ("HS256", base64url_decode(public)),
    ]
    for algorithm, key in forgeries:
        token = jwt.encode(claims(toy), key, algorithm=algorithm, headers={"kid": "first"})
        assert await status_with(client, token) == 401


@pytest.mark.parametrize(
    "more",
    [
        {"jwk": "own"},
        {"jku": "http://127.0.0.1:1/jwks.json"},
        {"x5u": "http://127.0.0.1:1/cert.pem"},
        {"x5c": ["own"]},
        {"kid": "first\0"},
        {"kid": "../first"},
        {"kid": ["first"]},
        {"kid": {"first": "first"}},
        {"alg": "eddsa"},
        {"alg": "Ed25519"},
        {"alg": ["EdDSA"]},
        {"alg": None},
    ],
    ids=str,
)
async def test_a_token_does_not_say_how_it_is_verified(
    toy: Any, client: httpx2.AsyncClient, more: dict[str, Any]
) -> None:
    stranger = auth.generate_key("first")
    public = dict(auth.public_part(stranger))
    header = {"alg": "EdDSA", "kid": "first", "typ": "JWT", **more}
    if "jwk" in more:
        header["jwk"] = public
    if "x5c" in more:
        header["x5c"] = [public["x"]]
    assert await status_with(client, hand_made(header, claims(toy), stranger)) == 401
    if "kid" in more or "alg" in more:
        assert await status_with(client, hand_made(header, claims(toy), toy.key)) == 401


@pytest.mark.parametrize(
    "more",
    [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"crit": "b64"}],
    ids=str,
)
async def test_what_a_token_calls_critical_is_none_of_ours(
    toy: Any, client: httpx2.AsyncClient, more: dict[str, Any]
) -> None:
    header = {"alg": "EdDSA", "kid": "first"}
    assert await status_with(client, hand_made(header, claims(toy), toy.key)) == 200
    assert await status_with(client, hand_made(header | more, claims(toy), toy.key)) == 401


async def test_a_token_in_a_token_is_none(toy: Any, client: httpx2.AsyncClient) -> None:
    head, body, signature = signed(toy).split(".")
    header = {"alg": "EdDSA", "kid": "first", "cty": "JWT"}
    for inner in (signed(toy), [claims(toy)], {"jwt": signed(toy)}, None, 1):
        assert await status_with(client, hand_made(header, inner, toy.key)) == 401
    for odd in (
        f"{head}.{body}",
        f"{head}.{body}.{signature}.",
        f".{head}.{body}.{signature}",
        f"{head}.{body}.{signature}.{signature}",
        f"{head}.{body}.{signature}{signature}",
        f"{head}=.{body}.{signature[:-1]}",
    ):
        assert await status_with(client, odd) == 401


@pytest.mark.parametrize("part", [0, 1])
async def test_hostile_json_inside_a_token(toy: Any, client: httpx2.AsyncClient, part: int) -> None:
    for text in (b"[" * 2900, b'{"kid":' * 400, b"1" * 2900, b"\xff", b'{"alg": "EdDSA", "kid": NaN}'):
        parts = signed(toy).split(".")
        parts[part] = base64.urlsafe_b64encode(text).decode().rstrip("=")
        assert await status_with(client, ".".join(parts)) == 401


async def test_another_key_under_a_known_name(toy: Any, client: httpx2.AsyncClient) -> None:
    stranger = auth.generate_key("first")
    assert await status_with(client, auth.sign(stranger, toy.user_id, now=toy.now)) == 401


@pytest.mark.parametrize("kid", ["", "x" * 200, "a b", "'; --", 5, None])
async def test_malformed_key_ids_are_not_looked_up(toy: Any, client: httpx2.AsyncClient, kid: Any) -> None:
    header = base64.urlsafe_b64encode(json.dumps({"alg": "EdDSA", "kid": kid}).encode()).decode().rstrip("=")
    _, body, signature = signed(toy).split(".")
    assert await status_with(client, f"{header}.{body}.{signature}") == 401
    assert toy.keys.asked_for == []


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer a.b.c",
        "Basic YTpi",
        "Bearer " + "x" * 5000,
        "Bearer ....",
        "é",
    ],
)
async def test_what_is_no_token(client: httpx2.AsyncClient, authorization: str) -> None:
    answer = await client.get("/things", headers={b"Authorization": authorization.encode()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_two_authorization_headers_are_none(toy: Any, client: httpx2.AsyncClient) -> None:
    header = ("Authorization", f"Bearer {toy.token()}")
    assert (await client.get("/things", headers=[header])).status_code == 200
    assert (await client.get("/things", headers=[header, header])).status_code == 401


async def test_an_unknown_key_is_a_401_or_a_503_if_news_is_late(toy: Any, client: httpx2.AsyncClient) -> None:
    token = auth.sign(auth.generate_key("second"), toy.user_id, now=toy.now)
    assert await status_with(client, token) == 401
    toy.keys.late = True
    answer = await client.get("/things", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "crv": "Ed25519"},
        {"x": ""},
        {"x": "AA"},
        {"x": "%%%"},
        {"x": "é"},
        {"crv": "X25519"},
    ],
)
async def test_a_published_key_that_is_none_verifies_nothing(
    toy: Any, client: httpx2.AsyncClient, jwk: dict[str, str]
) -> None:
    whole = auth.public_part(toy.key)
    toy.keys.keys["first"] = {**whole, **jwk} if {"x", "crv"} & jwk.keys() else jwk
    assert await status_with(client, toy.token()) == 401


async def test_a_key_that_appears_while_we_wait(toy: Any) -> None:
    second = auth.generate_key("second")
    verifier = Verifier(toy.keys, now=lambda: toy.now, key_timeout=30.0)
    header = f"Bearer {auth.sign(second, toy.user_id, now=toy.now)}".encode()
    asking = asyncio.create_task(verifier.principal(header))
    await toy.keys.somebody_waits.wait()
    toy.keys.publish(second)
    assert (await asking).user_id == toy.user_id


async def test_memory_is_bounded(toy: Any) -> None:
    verifier = Verifier(toy.keys, now=lambda: toy.now, most_remembered=2)
    first, *others = (f"Bearer {signed(toy, number=n)}".encode() for n in range(3))
    for header in (first, *others, *others):
        await verifier.principal(header)
    assert len(toy.keys.asked_for) == 3
    await verifier.principal(first)
    assert len(toy.keys.asked_for) == 4
    for spelling in (b"bearer", b"BEARER  ", b"Bearer "):
        await verifier.principal(first.replace(b"Bearer", spelling) + b"  ")
    assert len(toy.keys.asked_for) == 4, "nobody fills it with spellings of one token"


async def test_a_public_key_holds_no_secret(toy: Any) -> None:
    assert set(auth.public_part(toy.key)) == {"kty", "crv", "kid", "x", "use", "alg"}
