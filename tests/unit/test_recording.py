"""A recording gives back what was recorded, and whoever cuts it off or edits it is found out."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.message.codec import Record, TopicRecord
from choreo.replay.sources.manifest import Manifest
from choreo.replay.sources.recording import NotARecording, Recording, Writer, _end
from choreo.replay.sources.records import (
    PASSED_OVER,
    Broken,
    Cut,
    Item,
    JournalEntry,
    OutboxRecord,
    Span,
    Wrote,
)
from choreo.replay.sources.redaction import Redaction

TOPIC = "p-billing-events"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)

text = st.text(st.characters(codec="utf-8"), max_size=20)
binary = st.none() | st.binary(max_size=20) | text.map(str.encode)
records = st.builds(Record, binary, binary, st.lists(st.tuples(text, binary), max_size=4))
moments = st.datetimes(timezones=st.just(UTC))
entries = st.builds(
    JournalEntry,
    service=st.just("billing"),
    position=st.integers(1, 2**63 - 1),
    id=st.uuids(),
    key=text,
    step=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(["fact", "command"]),
    type=text,
    topic=st.none() | st.just(TOPIC),
    partition=st.none() | st.just(0),
    offset=st.none() | st.integers(0, 2**63 - 1),
    correlation_id=st.none() | st.uuids(),
    outcome=st.sampled_from(["applied", "refused", "parked", "dropped"]),
    command=st.none() | st.dictionaries(text, text | st.integers(-(2**53), 2**53), max_size=4),
    refusal=st.none() | st.dictionaries(text, text, max_size=2),
    now=moments,
    received_at=st.none() | moments,
    code_version=text,
    wrote=st.none() | st.builds(Wrote, text, text, st.lists(st.lists(text | st.integers(0, 9)), max_size=2)),
)
others = st.lists(entries | st.builds(OutboxRecord, st.just("billing"), records), max_size=10)


def a_cut(end: int) -> Cut:
    return Cut({(TOPIC, 0): Span(0, end, end)}, ("billing",), "p-", {})


def written(path: Path, items: list[Item], redaction: Redaction | None = None) -> Recording:
    with Writer(path, a_cut(sum(isinstance(item, TopicRecord) for item in items)), redaction) as writer:
        writer.write(items)
        writer.finish()
    return Recording(path)


def test_a_recording_is_for_its_owner_alone(tmp_path: Path) -> None:
    for name in ("a.ndjson", "a.ndjson.gz"):
        written(tmp_path / name, [])
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["part", "new"])
def test_a_recording_is_not_written_through_a_link(tmp_path: Path, what: str) -> None:
    (precious := tmp_path / "precious").write_text("ours")
    for name in ("a.ndjson", "a.ndjson.gz"):
        (tmp_path / f".{name}.{what}").symlink_to(precious)
        assert read(written(tmp_path / name, [a_record(0)])) == [a_record(0)]
    assert precious.read_text() == "ours"


def read(recording: Recording) -> list[Item]:
    return [item for batch in recording.read() for item in batch]


def a_record(offset: int, value: bytes = b"{}") -> TopicRecord:
    return TopicRecord(TOPIC, 0, offset, 1, True, Record(b"key", value, []))


@given(st.lists(st.tuples(records, st.integers(0, 2**40), st.booleans()), max_size=10), others)
def test_what_is_read_is_what_was_written(told: list[tuple[Record, int, bool]], others: list[Item]) -> None:
    items: list[Item] = [
        TopicRecord(TOPIC, 0, n, at, appended, r) for n, (r, at, appended) in enumerate(told)
    ]
    items += others
    for name in ("recording.ndjson", "recording.ndjson.gz"):
        with TemporaryDirectory() as folder:
            recording = written(Path(folder) / name, items)
            assert read(recording) == items
            assert recording.cut == a_cut(len(told))


@settings(max_examples=30)
@given(st.lists(records, max_size=5), others, text)
def test_what_is_about_no_key_that_is_asked_for_is_passed_over(
    told: list[Record], others: list[Item], key: str
) -> None:
    items: list[Item] = [TopicRecord(TOPIC, 0, 2 * n, 1, True, r, 2 * n - 1) for n, r in enumerate(told)]
    items += others
    with TemporaryDirectory() as folder:
        recording = written(Path(folder) / "a.ndjson", items)
        assert read(recording.only({})) == []
        less = read(recording.only(dict.fromkeys([TOPIC, "billing"], key.__eq__)))
        assert read(recording) == items, "the source is as it was"
    for item, came in zip(items, less, strict=True):
        if came == item:
            continue
        assert not isinstance(came, JournalEntry) and came.record is PASSED_OVER
        assert (item.key.encode() if isinstance(item, JournalEntry) else item.record.key) != key.encode()
        if isinstance(item, TopicRecord):
            assert came == replace(item, timestamp=0, record=PASSED_OVER)
        else:
            assert came == OutboxRecord("billing", PASSED_OVER)


def test_of_a_line_that_is_passed_over_nothing_is_read(tmp_path: Path) -> None:
    recording = written(tmp_path / "a.ndjson", [a_record(0)])
    (one,) = read(recording.only({TOPIC: "another".__eq__}))
    assert one == replace(a_record(0), timestamp=0, record=PASSED_OVER)
    assert read(recording.only({TOPIC: "key".__eq__})) == [a_record(0)]


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz"])
def test_wherever_it_is_cut_off_it_is_broken(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written(path, [a_record(offset, b"x" * 100) for offset in range(20)])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length == 1 and path.suffix == ".gz":
            continue  # a byte could be the beginning of anything
        with pytest.raises(Broken, match="cut off"):
            Recording(path)


def test_whichever_line_is_edited_removed_or_moved_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    written(path, [a_record(offset, b"x%d" % offset) for offset in range(4)])
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(len(lines)):
        for edited in (
            [*lines[:number], *lines[number + 1 :]],
            [*lines[: number + 1], *lines[number:]],
            [*lines[:number], lines[number].replace(b"billing", b"willing"), *lines[number + 1 :]],
            [*lines[: number - 1], *reversed(lines[number - 1 : number + 1]), *lines[number + 1 :]],
        ):
            if edited == lines:
                continue
            path.write_bytes(b"".join(edited))
            with pytest.raises((Broken, NotARecording)):
                Recording(path)


@pytest.mark.parametrize(
    "line",
    [b"[]", b"7", b'{"topic":7}', b'{"journal":"billing"}', b'{"outbox":"b","headers":["a"],"key":null}'],
)
def test_a_line_that_is_none_is_told_even_if_the_digest_is_right(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.ndjson"
    written(path, [a_record(0)])
    manifest, *body, _ = path.read_bytes().splitlines(keepends=True)
    body.append(line + b"\n")
    end = _end(len(body), manifest, hashlib.sha256(b"".join(body)))
    path.write_bytes(b"".join([manifest, *body, end]))
    with pytest.raises(Broken, match="line 3 is none of a recording"):
        read(Recording(path))


def test_a_missing_offset_is_a_gap_in_the_manifest(tmp_path: Path) -> None:
    with Writer(tmp_path / "a", a_cut(5), None) as writer:
        writer.write([a_record(1), a_record(3)])
        writer.finish()
    gaps = [(gap["from"], gap["to"]) for gap in Recording(tmp_path / "a").manifest["gaps"]]
    assert gaps == [(0, 1), (2, 3), (4, 5)]


@pytest.mark.parametrize("content", [b"{}", b"[]", b"hello\n", b'{"recording": 2}\n', b"\x1f\x8b and so on"])
def test_another_file_is_no_recording(tmp_path: Path, content: bytes) -> None:
    for name in ("a", "a.gz"):
        (tmp_path / name).write_bytes(content)
    for path in (tmp_path / "a", tmp_path / "a.gz", tmp_path):
        with pytest.raises(NotARecording):
            Recording(path)


def test_equal_addresses_are_replaced_by_equal_ones_whatever_their_capitals(tmp_path: Path) -> None:
    entry = JournalEntry(
        "billing", 1, UUID(int=1), "k", 0, "command", "Register", None, None, None, None, "applied",
        {"login": "Ada", "email": "Ada@Example.com"}, None, NOON, None, "1",
    )  # fmt: skip
    items: list[Item] = [a_record(0, b'{"email":"ada@example.com","other":"eve@example.com"}'), entry]
    record, told = read(written(tmp_path / "a", items, Redaction()))
    assert isinstance(record, TopicRecord) and isinstance(told, JournalEntry) and told.command
    assert told.command["email"].encode() in (record.record.value or b"")
    assert (record.record.value or b"").count(told.command["email"].encode()) == 1
    assert told.command["login"] == "Ada"
    assert b"example.com" not in (tmp_path / "a").read_bytes().lower()


OLD = """{"recording":1,"services":["order","billing"],"topic_prefix":"",
"currency":"USD","decide_within":12.0,"keys":null,"until":null,"redacted":false,"partitions":[],"counts":{},"rows":{}}"""


def test_settings_of_a_recording_made_before_they_were_the_services_own_are_taken_over() -> None:
    cut = Manifest.model_validate(json.loads(OLD)).cut
    assert cut.own_settings == {"order": {"decide_within": 12.0}, "billing": {"currency": "USD"}}


def test_settings_that_no_service_can_have_are_none_of_a_recording() -> None:
    for edited in (OLD.replace("USD", "shells"), OLD.replace("12.0", "1e999")):
        with pytest.raises(ValueError, match="is not usable"):
            Manifest.model_validate(json.loads(edited))
