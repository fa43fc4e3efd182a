"""Whatever is wrong with what a verb is given: a sentence, an exit code, no traceback, and never a match."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from choreo.chassis.kafka import log_reader
from choreo.chassis.settings import OBSERVER
from choreo.cli.debugging import blame as blame_verb
from choreo.cli.debugging import rebuild as rebuild_verb
from choreo.cli.main import app
from choreo.embedded.kafka import Kafka
from choreo.errors import HandlerMisbehaves, Incomplete, Unavailable, UsageError
from choreo.message.codec import Headers, Record, TopicRecord
from choreo.operations.reading import replay_source
from choreo.replay.sources.recording import _LONGEST_LINE_BYTES, Recording, Writer, _end
from choreo.replay.sources.records import Item, Span
from tests.shop import PATIENCE, Shop

GOOD = Path(__file__).parents[2] / "events" / "recordings" / "every-fact-1.ndjson"
NOBODY = "00000000-0000-0000-0000-000000000001"

VERBS = {
    "verify": ["verify", "FILE"],
    "replay": ["replay", "FILE", "--service", "order"],
    "state": ["state", "order", "FILE", "--at", "-0s"],
    "blame": ["blame", "order", "orders", "ORDER", "status", "FILE"],
    "trace": ["trace", "ORDER", "FILE"],
    "minimize": ["minimize", "FILE"],
}
Out = pytest.CaptureFixture[str]


def called(capsys: Out, *arguments: str) -> tuple[int, str]:
    """The exit code and all that was printed, as `choreo.cli.main` has it."""
    capsys.readouterr()
    try:
        code = app(list(arguments), standalone_mode=False) or 0
    except (UsageError, HandlerMisbehaves, Incomplete, Unavailable) as error:
        code, sentence = error.exit_code, str(error)
    else:
        sentence = ""
    out, err = capsys.readouterr()
    return code, out + err + sentence


def an_order() -> str:
    """The one that was paid."""
    subject = next(
        dict(one.record.headers)["ce_subject"] for one in records(GOOD) if is_a(one, "OrderCreated")
    )
    assert subject
    return subject.decode()


def records(path: Path) -> list[TopicRecord]:
    return [item for batch in Recording(path).read() for item in batch if isinstance(item, TopicRecord)]


def is_a(item: Item, type_: str) -> bool:
    return isinstance(item, TopicRecord) and ("ce_type", type_.encode()) in item.record.headers


def verbs(file: Path) -> dict[str, list[str]]:
    order = an_order()
    return {
        name: [{"FILE": str(file), "ORDER": order}.get(word, word) for word in words]
        for name, words in VERBS.items()
    }


# -- a file that is not whole ------------------------------------------------------------------------


def cut_at(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(len(whole) * share)]


NOT_WHOLE: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "cut in the middle": (cut_at(0.5), 3, "cut off"),
    "cut before its last byte": (lambda whole: whole[:-1], 3, "cut off"),
    "cut inside its first line": (lambda whole: whole[:300], 3, "cut off"),
    "cut inside its first word": (lambda whole: whole[:5], 3, "cut off"),
    "nothing is left of it": (lambda whole: b"", 3, "cut off"),
    "another amount": (lambda whole: whole.replace(b'\\"price\\":400', b'\\"price\\":500'), 3, "edited"),
    "another number of a step": (lambda whole: whole.replace(b'"step":1,', b'"step":null,'), 3, "edited"),
    "another manifest": (lambda whole: whole.replace(b'"redacted":true', b'"redacted":false'), 3, "edited"),
    "a manifest that is no JSON": (lambda whole: whole.replace(b'"code"', b'"code', 1), 3, "edited"),
    "a line less": (lambda whole: b"".join(whole.splitlines(keepends=True)[::3]), 3, ""),
    "a line twice": (lambda whole: whole + whole.splitlines(keepends=True)[-1], 3, "edited"),
    "another format": (lambda whole: whole.replace(b'"recording":1', b'"recording":2'), 64, "another format"),
    "something else": (lambda whole: b"hello\n", 64, "does not begin with the manifest"),
}


@pytest.mark.parametrize("what", NOT_WHOLE)
def test_of_a_recording_that_is_not_whole_nothing_is_told(what: str, tmp_path: Path, capsys: Out) -> None:
    spoil, exit_code, says = NOT_WHOLE[what]
    path = tmp_path / "bad.ndjson"
    path.write_bytes(spoil(GOOD.read_bytes()))
    assert path.read_bytes() != GOOD.read_bytes()
    for verb, arguments in verbs(path).items():
        code, told = called(capsys, *arguments)
        assert (code, says in told) == (exit_code, True), (verb, told)
        assert "match" not in told and "Traceback" not in told


def test_one_that_is_not_there_is_wrong_usage(tmp_path: Path, capsys: Out) -> None:
    for arguments in verbs(tmp_path / "nowhere").values():
        code, told = called(capsys, *arguments)
        assert (code, "nowhere is not there" in told) == (64, True)


def test_a_verdict_can_be_read_as_json_and_junit_all_the_same(tmp_path: Path, capsys: Out) -> None:
    path, junit = tmp_path / "bad.ndjson", tmp_path / "junit.xml"
    path.write_bytes(GOOD.read_bytes()[:-1])
    code, told = called(capsys, "verify", str(path), "--json", "--junit", str(junit))
    assert (code, json.loads(told)["verdict"]) == (3, "incomplete")
    assert "cut off" in junit.read_text()


# -- a file that is whole, and holds what today's code does not know ---------------------------------


def rewritten(
    path: Path, change: Callable[[TopicRecord], TopicRecord | None], more: Item | None = None
) -> Path:
    """Sealed as if it had been recorded so."""
    source = Recording(GOOD)
    cut = source.cut
    if isinstance(more, TopicRecord):
        end = Span(0, more.offset + 1, more.offset + 1)
        cut = replace(cut, spans={**cut.spans, (more.topic, more.partition): end})
    with Writer(path, cut, None) as writer:
        for batch in source.read():
            writer.write([change(item) or item if isinstance(item, TopicRecord) else item for item in batch])
        writer.write([more] if more else [])
        writer.finish()
    return path


def with_header(record: TopicRecord, name: str, value: bytes) -> TopicRecord:
    headers: Headers = [(other, value if other == name else told) for other, told in record.record.headers]
    return replace(record, record=Record(record.record.key, record.record.value, headers))


def test_an_event_of_an_unknown_type_is_no_match_and_is_read_past(tmp_path: Path, capsys: Out) -> None:
    last = [record for record in records(GOOD) if is_a(record, "OrderCreated")][-1]
    praised = with_header(replace(last, offset=3), "ce_type", b"OrderPraised")
    path = rewritten(tmp_path / "praised.ndjson", lambda record: None, praised)
    expected = {"verify": 1, "minimize": 3}
    for verb, arguments in verbs(path).items():
        code, told = called(capsys, *arguments)
        assert code == expected.get(verb, 0), (verb, told)
        assert verb not in expected or "unknown event type 'OrderPraised'" in told
        assert "match:" not in told


def test_a_version_that_no_upcaster_lifts_is_missing(tmp_path: Path, capsys: Out) -> None:
    path = rewritten(
        tmp_path / "old.ndjson",
        lambda record: (
            with_header(record, "ce_dataschema", b"urn:choreo:PaymentConfirmed:0")
            if is_a(record, "PaymentConfirmed")
            else None
        ),
    )
    expected = {"verify": 3, "replay": 3, "state": 3, "blame": 3, "trace": 0, "minimize": 3}
    for verb, arguments in verbs(path).items():
        code, told = called(capsys, *arguments)
        assert code == expected[verb], (verb, told)
        assert verb == "trace" or "PaymentConfirmed" in told or "version 0" in told, (verb, told)
        assert "match:" not in told


# -- a file that a stranger wrote and sealed ---------------------------------------------------------


def sealed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    manifest, *body = change(b"".join(GOOD.read_bytes().splitlines(keepends=True)[:-1])).splitlines(True)
    seal = _end(len(body), manifest, hashlib.sha256(b"".join(body)))
    whole = b"".join((manifest, *body, seal))
    path.write_bytes(gzip.compress(whole) if path.suffix == ".gz" else whole)
    return path


def one_for_another(here: str, other: str) -> Callable[[bytes], bytes]:
    return lambda whole: whole.replace(here.encode(), other.encode())


FORGED = {
    "a currency": one_for_another('"currency":"EUR"', '"currency":"\\u001b[2J"'),
    "no currency": one_for_another('"currency":"EUR"', '"currency":1'),
    "counts": one_for_another('"counts":{', '"counts":{"orders":"many",'),
    "fewer than nothing": one_for_another('"counts":{', '"counts":{"orders":-1,'),
    "a topic": one_for_another('order-events","partition":0,"first"', 'praise","partition":0,"first"'),
    "a topic of records": one_for_another(
        'order-events","partition":0,"offset"', 'x","partition":0,"offset"'
    ),
    "a service": one_for_another('"services":["user"', '"services":["praise"'),
    "a service of a journal": one_for_another('"journal":"order"', '"journal":"praise"'),
    "an offset": one_for_another('"offset":1,"tstype"', '"offset":"1","tstype"'),
    "a partition": one_for_another('"partition":0,"first"', '"partition":[],"first"'),
    "time": one_for_another('"decide_within":30.0', '"decide_within":1e999'),
    "rows": one_for_another('"rows":{', '"rows":{"x":[],'),
    "a line too long": lambda whole: whole + b"x" * (_LONGEST_LINE_BYTES + 1) + b"\n",
}


@pytest.mark.parametrize("what", FORGED)
def test_what_nobody_recorded_is_told_in_a_sentence(what: str, tmp_path: Path, capsys: Out) -> None:
    path = sealed(tmp_path / "forged.ndjson", FORGED[what])
    assert path.read_bytes() != GOOD.read_bytes()
    for verb, arguments in verbs(path).items():
        code, told = called(capsys, *arguments)
        assert (code, "Traceback" in told, "match:" in told) == (3, False, False), (verb, told)


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path: Path, capsys: Out) -> None:
    line = b'{"journal":"' + b"x" * 1_000_000 + b'"}\n'
    path = sealed(tmp_path / "bomb.ndjson.gz", lambda whole: whole + line * 40)
    assert path.stat().st_size < 100_000
    code, told = called(capsys, "verify", str(path))
    assert (code, "unpacks to over" in told) == (3, True)


HIDDEN = "\x1b]0;mine\x07\x1b[2J\x9b31m\u202e"


@pytest.mark.parametrize(
    "arguments",
    [
        ["state", "order", "FILE", "--at", "-0s", "--json"],
        ["blame", "order", "orders", "ORDER", "description", "FILE"],
        ["replay", "FILE", "--service", "order", "--log", "description"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_a_stranger_wrote_commands_no_terminal(arguments: list[str], tmp_path: Path) -> None:
    text = json.dumps(HIDDEN)
    inside = json.dumps(text)[1:-1]

    def describe(whole: bytes) -> bytes:
        described = whole.replace(b'"description":null', f'"description":{text}'.encode())
        return described.replace(b'\\"description\\":null', f'\\"description\\":{inside}'.encode())

    given = {"FILE": str(sealed(tmp_path / "written.ndjson", describe)), "ORDER": an_order()}
    command = [sys.executable, "-m", "choreo.cli.main", *[given.get(word, word) for word in arguments]]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FORCE_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    told = re.sub("\x1b\\[[0-9;]*m", "", done.stdout)  # colours are ours
    assert "mine" in told
    assert "mine" not in done.stderr, "there, whatever takes long is told with commands of ours"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", told), told


@pytest.mark.parametrize("option", ["--break", "--log", "--expect"])
@pytest.mark.parametrize(
    ("reached", "attempt"),
    [
        ("{}.get('_io').open(PATH, 'w')", "write the file"),
        ("{}.get('posix').system('true')", "start a process"),
    ],
)
def test_an_expression_has_no_side_effects(
    option: str, reached: str, attempt: str, tmp_path: Path, capsys: Out
) -> None:
    """It is Python, so it finds its way to modules."""
    modules = "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Quitter'][0].__call__"
    modules += ".__globals__['sys'].modules"
    expression = reached.format(modules).replace("PATH", repr(str(tmp_path / "mine")))
    verb = ["replay", str(GOOD), "--service", "order", option, expression]
    if option == "--expect":
        verb = ["minimize", str(GOOD), option, f"PlaceOrder: {expression}"]
    code, told = called(capsys, *verb)
    assert (code, f"{option} tries to {attempt}" in told) == (1, True), told
    assert not (tmp_path / "mine").exists()


# -- what is asked for is not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["trace", NOBODY, "FILE"], 1, "has the id"),
        (["trace", "no id at all", "FILE"], 1, "has the id"),
        (["replay", "FILE", "--service", "order", "--until", NOBODY], 64, "has applied nothing that is"),
        (["replay", "FILE", "--service", "order", "--key", NOBODY], 64, "Nothing has the id"),
        (["state", "order", "FILE", "--at", NOBODY], 64, "has applied nothing that is"),
        (["state", "order", "FILE", "--at", "-0s", "--key", NOBODY], 64, "Nothing has the id"),
        (["state", "order", "FILE", "--at", "-0s", "--diff", NOBODY], 64, "has applied nothing that is"),
        (["state", "order", "FILE", "--at", "order-events[0]@99"], 64, "Nothing lies at"),
        (["state", "order", "FILE", "--at", "billing-events[0]@99"], 64, "has applied nothing that is"),
        (["blame", "order", "orders", NOBODY, "FILE"], 64, "has no row"),
        (
            ["replay", "FILE", "--service", "order", "--break", "price >"],
            64,
            "no Python expression at column",
        ),
        (["replay", "FILE", "--service", "order", "--log", "price >"], 64, "no Python expression at column"),
        (["replay", "FILE", "--service", "order", "--log", "("], 64, "no Python expression at column"),
        (["replay", "FILE", "--service", "order", "--log", ""], 64, "no Python expression"),
        (["replay", "FILE", "--service", "order", "--log", "\0"], 64, "no Python expression"),
        (["replay", "FILE", "--service", "order", "--log", "-" * 99_999 + "1"], 64, "no Python expression"),
    ],
)
def test_what_is_not_there_and_what_is_no_expression_is_a_sentence(
    arguments: list[str], exit_code: int, says: str, capsys: Out
) -> None:
    code, told = called(capsys, *[str(GOOD) if word == "FILE" else word for word in arguments])
    assert (code, says in told) == (exit_code, True), told


@pytest.mark.parametrize("expression", ["{(1, 2): 3}", "{type}", "state", "(x for x in type)", "1 / 0"])
def test_whatever_an_expression_gives_can_be_printed(expression: str, capsys: Out) -> None:
    for more in ([], ["--json"]):
        code, _ = called(capsys, "replay", str(GOOD), "--service", "order", "--log", expression, *more)
        assert code == 0


# -- the running system ------------------------------------------------------------------------------


@pytest.fixture
def here(played: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The verbs find it."""
    for module in (replay_source, blame_verb, rebuild_verb):
        monkeypatch.setattr(module, "find_installation", lambda: played.installation)
    return played


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["trace", NOBODY], 1, "has the id"),
        (["replay", "live", "--service", "billing", "--until", NOBODY], 64, "has applied nothing that is"),
        (["replay", "live", "--service", "billing", "--key", NOBODY], 64, "Nothing has the id"),
        (["state", "billing", "--at", NOBODY], 64, "has applied nothing that is"),
        (["state", "billing", "--at", "-0s", "--key", NOBODY], 64, "Nothing has the id"),
        (["blame", "billing", "accounts", NOBODY], 64, "has no row"),
        (["rebuild", "shipping"], 64, "There is no service shipping"),
    ],
)
def test_what_the_running_system_does_not_have_is_a_sentence(
    here: Shop, arguments: list[str], exit_code: int, says: str, capsys: Out
) -> None:
    code, told = called(capsys, *arguments)
    assert (code, says in told) == (exit_code, True), told


@pytest.mark.parametrize("arguments", [["verify"], ["state", "order", "--at", "-0s"], ["rebuild", "order"]])
def test_a_refused_password_is_a_sentence(
    here: Shop, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    if not isinstance(here.kafka, Kafka):
        pytest.skip("a Kafka in Docker asks nobody for a name")
    monkeypatch.setattr(log_reader, "_ANSWER_TIMEOUT_SECONDS", PATIENCE)  # a busy machine is slow to refuse
    settings = here.installation.settings
    passwords = {**settings.kafka_passwords, OBSERVER: SecretStr("wrong")}
    wrong = replace(here.installation, settings=settings.model_copy(update={"kafka_passwords": passwords}))
    for module in (replay_source, rebuild_verb):
        monkeypatch.setattr(module, "find_installation", lambda: wrong)
    code, told = called(capsys, *arguments)
    assert (code, "refuses the name or the password" in told) == (69, True), told


def test_a_journal_that_was_trimmed_is_incomplete(here: Shop, capsys: Out) -> None:
    """One customer's part is gone altogether, of another's the beginning."""
    some = "SELECT key, count(*) FROM journal WHERE type <> 'SigningKeyPublished' GROUP BY key ORDER BY 2, 1"
    (gone, _), *_, (shorter, _) = here.rows("billing", some)
    beginning = "SELECT min(position) FROM journal WHERE key = %s"
    with psycopg.connect(here.owner_urls["billing"]) as conn:
        conn.execute("CREATE TABLE kept AS SELECT * FROM journal")
        conn.execute(
            f"DELETE FROM journal WHERE key = %s OR position = ({beginning})".encode(), (gone, shorter)
        )
    try:
        of_gone, of_shorter = ["--key", gone], ["--key", shorter]
        for arguments in (
            ["verify"],
            ["verify", "--closed-loop"],
            ["verify", "--shuffle", "1"],
            ["replay", "live", "--service", "billing"],
            ["replay", "live", "--service", "billing", *of_gone],
            ["replay", "live", "--service", "billing", *of_shorter],
            ["state", "billing", "--at", "-0s"],
            ["state", "billing", "--at", "-0s", *of_gone],
            ["state", "billing", "--at", "-0s", *of_shorter],
            ["blame", "billing", "accounts", gone],
            ["blame", "billing", "accounts", shorter],
        ):
            code, told = called(capsys, *arguments)
            assert code == 3, (arguments, told)
            assert "match:" not in told
        told = called(capsys, "state", "billing", "--at", "-0s", *of_gone)[1]
        assert f"the journal of billing has nothing of key {gone}" in told
        code, told = called(capsys, "rebuild", "billing")
        assert code == 0, f"that needs the topics alone: {told}"
        assert called(capsys, "trace", gone)[0] == 0, "the other services know it"
    finally:
        with psycopg.connect(here.owner_urls["billing"]) as conn:
            conn.execute("DELETE FROM journal")
            conn.execute("INSERT INTO journal OVERRIDING SYSTEM VALUE SELECT * FROM kept")
            conn.execute("DROP TABLE kept")


def test_a_table_that_was_changed_by_hand_is_told_by_every_verb_that_looks_at_it(
    here: Shop, capsys: Out
) -> None:
    ((user,),) = here.rows("billing", "SELECT user_id FROM accounts WHERE balance > 0 ORDER BY 1 LIMIT 1")
    edit = "UPDATE accounts SET balance = balance + %s WHERE user_id = %s"
    with psycopg.connect(here.owner_urls["billing"]) as conn:
        conn.execute(edit.encode(), (1, user))
    try:
        for arguments, exit_code, says in (
            (["verify"], 1, "has another balance"),
            (["rebuild", "billing"], 1, "balance"),
            (
                ["blame", "billing", "accounts", str(user), "balance"],
                3,
                "nothing in the journal of billing leads to that",
            ),
            (["blame", "billing", "accounts", str(user), "currency"], 0, "AccountCreated"),
            (
                ["state", "billing", "--at", "-0s", "--diff", "live"],
                0,
                "nothing in the journal gives it that today",
            ),
        ):
            code, told = called(capsys, *arguments)
            assert (code, says in told) == (exit_code, True), (arguments, told)
            assert "match:" not in told
        assert " → live, 1 row differs" in told
    finally:
        with psycopg.connect(here.owner_urls["billing"]) as conn:
            conn.execute(edit.encode(), (-1, user))
