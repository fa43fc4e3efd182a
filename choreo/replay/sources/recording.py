"""A recording: a stream in a file, as NDJSON, gzipped where its name ends in `.gz`; see docs/replay.md.

The first line is the manifest. Then come topic records with kcat's keys, journal entries and unpublished
facts, in the order of the stream. The last line holds a digest of all before it: a file that was cut off or
edited is found out on opening.
"""

import gzip
import hashlib
import os
import re
import shutil
import zlib
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson
from sqlalchemy import Table

from choreo.chassis.transaction.journal import CODE_VERSION
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import Headers, Record, TopicRecord, uuid_of
from choreo.replay.sources.manifest import Manifest
from choreo.replay.sources.records import (
    PASSED_OVER,
    Broken,
    Cut,
    EditedRow,
    Item,
    JournalEntry,
    OutboxRecord,
    Source,
    Wanted,
    Wrote,
    every_key,
)
from choreo.replay.sources.redaction import Redaction
from choreo.replay.sources.rows import Digest, canonical, name_as_text, name_in, plain, short

FORMAT = 1
_BEGINNING = b'{"recording":'
_END = b'{"end":'
_LONGEST_LINE_BYTES = 16 * 1024 * 1024
"""Kafka's records end at a megabyte, and a manifest that names each key of many at a few."""
_MOST_UNPACKED = 100
"""Ours unpack to some twenty times their size."""
_MOST_EDITED = 1000
"""Rows of a table: whoever has another version of the code at hand than the system had will have many."""
_AT_ONCE = 200
"""Items: so few that they stay in the processor's cache until they are replayed."""
_OF = re.compile(rb'\{"(topic|journal|outbox)":"([^"\\]+)",')
_PLACE = re.compile(
    rb'\{"topic":"[^"\\]+","partition":(\d+),"offset":(\d+),"tstype":"\w+","ts":-?\d+,"broker":-1,(?:"from":(\d+),)?'
)
_KEY = b',"key":"'
"""In no text within a line: there quotes have a backslash before them."""


class NotARecording(Exception):
    """The file is none, or not one this program can read. The message is a sentence."""


# -- writing ---------------------------------------------------------------------------------------


@dataclass
class Contents:
    """What a recording holds, as its manifest says it."""

    counts: Counter[str] = field(default_factory=Counter)
    """Lines by what they are: a topic, the journal of a service, the outbox of a service."""
    gaps: list[dict[str, Any]] = field(default_factory=list)
    """Offsets that Kafka does not have, although they lie within."""
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    """By service and table, the digest of its rows."""
    edited: dict[str, dict[str, Sequence[EditedRow]]] = field(default_factory=dict)
    """By service and table, rows that do not follow from the steps."""


class Writer:
    """Lines go to a file beside; `finish` puts the manifest before them. Use as a context."""

    def __init__(
        self,
        path: Path,
        cut: Cut,
        redaction: Redaction | None,
        add: Callable[[Sequence[Item]], Sequence[Item]] = lambda items: items,
    ) -> None:
        """`add` is given what will be written, addresses replaced, and may add digests to it."""
        self._path = path
        self._body_path = path.with_name(f".{path.name}.part")
        self._cut = cut
        self._redaction = redaction
        self._add = add
        self._sha = hashlib.sha256()
        self._next: dict[TopicPartition, int] = {place: span.first for place, span in cut.spans.items()}
        self.contents = Contents()

    def __enter__(self) -> "Writer":
        self._body = _create(self._body_path, self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()
        self._body_path.unlink(missing_ok=True)

    def write(self, items: Sequence[Item]) -> None:
        for item in self._add([self._hidden(item) for item in items]):
            line = orjson.dumps(self._counted(item), option=orjson.OPT_APPEND_NEWLINE)
            self._sha.update(line)
            self._body.write(line)

    def finish(self) -> None:
        for place, span in self._cut.spans.items():
            self._gap(place, span.end)
        self._body.close()
        manifest = orjson.dumps(self._manifest(), option=orjson.OPT_APPEND_NEWLINE)
        end = _end(self.contents.counts.total(), manifest, self._sha)
        unfinished = self._path.with_name(f".{self._path.name}.new")
        _make_private(unfinished)
        with unfinished.open("wb") as out, self._body_path.open("rb") as body:
            out.write(self._packed(manifest))
            shutil.copyfileobj(body, out)
            out.write(self._packed(end))
        unfinished.replace(self._path)

    def _packed(self, line: bytes) -> bytes:
        """gzip allows several files in a row: the manifest comes first although it is written last."""
        return gzip.compress(line, mtime=0) if _is_gzip(self._path) else line

    def _counted(self, item: Item) -> dict[str, Any]:
        match item:
            case TopicRecord():
                self._gap((item.topic, item.partition), item.begin)
                self._next[item.topic, item.partition] = item.offset + 1
                self.contents.counts[item.topic] += 1
            case JournalEntry():
                self.contents.counts[f"journal of {item.service}"] += 1
            case OutboxRecord():
                self.contents.counts[f"outbox of {item.service}"] += 1
        return _as_dict(item)

    def _hidden(self, item: Item) -> Item:
        if self._redaction is None:
            return item
        if isinstance(item, JournalEntry):
            if item.command is None:
                return item
            return replace(item, command=orjson.loads(self._redaction.data(orjson.dumps(item.command))))
        record = item.record
        if record.value is None:
            return item
        value = self._redaction.data(record.value)
        return replace(item, record=Record(record.key, value, record.headers))

    def _gap(self, place: TopicPartition, offset: int) -> None:
        if self._cut.is_whole and offset > self._next[place]:
            self.contents.gaps.append(
                {"topic": place[0], "partition": place[1], "from": self._next[place], "to": offset}
            )

    async def digest(
        self, source: Source, service: str, table: Table, expected: "ExpectedRows | None" = None
    ) -> None:
        """Adds that of the table's rows at the cut, and those that are not as expected."""
        rows = source.rows(service, table)
        if rows is None or not self._cut.is_whole:
            return
        digest = Digest()
        async for page in rows:
            for row in page:
                told = canonical(row)
                told = self._redaction.data(told) if self._redaction else told
                digest.add(told)
                if expected:
                    expected.compare(told)
        self.contents.rows.setdefault(service, {})[str(table.name)] = str(digest)
        if expected and (edited := expected.edited()):
            self.contents.edited.setdefault(service, {})[str(table.name)] = edited

    def _manifest(self) -> dict[str, Any]:
        cut = self._cut
        return {
            "recording": FORMAT,
            "code": CODE_VERSION,
            "at": plain(datetime.now(UTC)),
            "services": cut.services,
            "topic_prefix": cut.topic_prefix,
            "settings": cut.own_settings,
            "keys": None if cut.keys is None else sorted(cut.keys),
            "until": cut.until and plain(cut.until),
            "redacted": self._redaction is not None or cut.redacted,
            "reduced": cut.reduced,
            "partitions": [
                {
                    "topic": topic,
                    "partition": partition,
                    "first": span.first,
                    "settled": span.settled,
                    "last": span.end - 1,
                }
                for (topic, partition), span in cut.spans.items()
            ],
            "counts": self.contents.counts,
            "gaps": self.contents.gaps,
            "rows": self.contents.rows,
            "columns": cut.columns,
            "edited": self.contents.edited,
        }


class ExpectedRows:
    """A table's rows as they follow from the steps, beside those that there are."""

    def __init__(self, table: Table, rows: Mapping[Any, Sequence[Any]]) -> None:
        """`rows` are by primary key."""
        self._table = table
        self._rows = {name_as_text(name): row for name, row in rows.items()}
        self._edited: list[EditedRow] = []

    def compare(self, row: bytes) -> None:
        """Takes a row there is, as `canonical` writes it."""
        told = orjson.loads(row)
        name = name_as_text(name_in(self._table, told))
        mine = self._rows.pop(name, None)
        if mine is None or canonical(mine) != row:
            self._edited.append(EditedRow(name, [short(value) for value in told]))

    def edited(self) -> list[EditedRow]:
        """Returns those that are otherwise and those that are not there, as many as a manifest can hold."""
        return [*self._edited, *(EditedRow(name, None) for name in self._rows)][:_MOST_EDITED]


def _end(lines: int, manifest: bytes, body: "hashlib._Hash") -> bytes:
    """Writes the last line."""
    seal = hashlib.sha256(manifest + body.hexdigest().encode()).hexdigest()
    return orjson.dumps({"end": {"lines": lines, "sha256": seal}}, option=orjson.OPT_APPEND_NEWLINE)


def pack_item(item: Item) -> bytes:
    """Writes it as a recording has it, on one line."""
    return orjson.dumps(_as_dict(item))


def _as_dict(item: Item) -> dict[str, Any]:
    match item:
        case TopicRecord():
            return {
                "topic": item.topic,
                "partition": item.partition,
                "offset": item.offset,
                "tstype": "logappend" if item.appended else "create",
                "ts": item.timestamp,
                "broker": -1,
                **({"from": item.begin} if item.begin < item.offset else {}),
                **_of_record(item.record),
            }
        case JournalEntry():
            return _entry(item)
        case OutboxRecord():
            return {"outbox": item.service, **_of_record(item.record)}


def _entry(entry: JournalEntry) -> dict[str, Any]:
    return {
        "journal": entry.service,
        "position": entry.position,
        "id": entry.id,
        "key": entry.key,
        "step": entry.step,
        "kind": entry.kind,
        "type": entry.type,
        "topic": entry.topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "flow": entry.correlation_id,
        "outcome": entry.outcome,
        "command": entry.command,
        "refusal": entry.refusal,
        "now": plain(entry.now),
        "received": entry.received_at and plain(entry.received_at),
        "code": entry.code_version,
        **({"wrote": entry.wrote} if entry.wrote else {}),
    }


def pack_record(record: Record) -> bytes:
    return orjson.dumps(_of_record(record))


def _of_record(record: Record) -> dict[str, Any]:
    """Writes whatever is not UTF-8 in base64, and names it as such."""
    encoded: list[str] = []

    def text_of(name: str, value: bytes | None) -> str | None:
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            encoded.append(name)
            return b64encode(value).decode()

    headers: list[str | None] = []
    for name, value in record.headers:
        headers += [name, text_of(f"headers/{len(headers) + 1}", value)]
    key, payload = text_of("key", record.key), text_of("payload", record.value)
    line = {"headers": headers, "key": key, "payload": payload}
    return line | {"base64": encoded} if encoded else line


def _create(path: Path, named: Path) -> IO[bytes]:
    _make_private(path)
    return gzip.open(path, "wb", compresslevel=1) if _is_gzip(named) else path.open("wb")  # type: ignore[return-value]


def _make_private(path: Path) -> None:
    """Anew and for its owner only, before anything is in it: a recording holds what customers wrote. What is
    there goes: where others may write too, it may be a link to something else of ours.
    """
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _is_gzip(path: Path) -> bool:
    return path.suffix == ".gz"


# -- reading ---------------------------------------------------------------------------------------


class Recording:
    """A source that is a file. May be read several times.

    It is checked on opening: nothing is read of what was cut off or edited, for anything may be wrong.
    """

    def __init__(self, path: Path, chosen: Collection[str] | None = None) -> None:
        """`chosen` are the keys that something is asked about. Raises `NotARecording`, and `Broken` for one
        that is not whole.
        """
        self.path = path
        first = b""
        try:
            with _open(path) as lines:
                first = lines.readline()
            self.manifest: dict[str, Any] = orjson.loads(first)
            if self.manifest.get("recording") != FORMAT:
                raise NotARecording(f"{path} is of another format than this program reads ({FORMAT}).")
            cut = Manifest.model_validate(self.manifest).cut
            self.cut = replace(cut, chosen=None if chosen is None else frozenset(chosen))
        except FileNotFoundError:
            raise NotARecording(f"{path} is not there.") from None
        except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, EOFError) or (_cut_off(first) and not isinstance(error, OSError)):
                raise Broken(f"{path} breaks off in its first line: it was cut off.") from None
            if first.startswith(_BEGINNING):
                raise Broken(f"{path} is not what was recorded: it was edited.") from error
            raise NotARecording(f"{path} does not begin with the manifest of a recording.") from error
        self._unknown = {self.cut.topic_of(name): name for name in self.cut.unknown_services}
        """By topic."""
        self._wanted: Wanted | None = None
        self._asked: tuple[bytes, ...] = ()
        self._unasked: tuple[bytes, ...] = (_END,)
        """How lines begin of which all are read, and none."""
        self._named = {
            *self.cut.services,
            *self.cut.unknown_services,
            *(topic for topic, _ in self.cut.spans),
        }
        """Services and topics that it says it is of."""
        self._check()

    def _check(self) -> None:
        """Raises `Broken`."""
        sha, count, end = hashlib.sha256(), 0, b""
        try:
            with _open(self.path) as lines:
                manifest = lines.readline()
                for line in lines:
                    if end:
                        raise Broken(f"{self.path} goes on after its end: it was edited.")
                    if line.startswith(_END):
                        end = line
                    elif line.endswith(b"\n"):
                        sha.update(line)
                        count += 1
        except (OSError, EOFError, zlib.error):
            end = b""
        if not end.endswith(b"\n"):
            raise Broken(f"{self.path} breaks off after {count} lines: it was cut off.")
        if end != _end(count, manifest, sha):
            raise Broken(f"{self.path} is not what was recorded: it was edited.")

    def only(self, wanted: Wanted) -> "Recording":
        """Returns the same, of which no more is read than that: of a service or topic that is named, what is
        of other keys comes as a record that is `PASSED_OVER`; nothing comes of others.
        """
        less = copy(self)
        less._wanted = wanted
        less._asked = _beginnings(name for name, keys in wanted.items() if keys is every_key)
        less._unasked = (_END, *_beginnings(self._named - wanted.keys()))
        return less

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        for batch in self.read():
            yield batch

    def read(self) -> Iterator[Sequence[Item]]:
        """Raises `Broken` where somebody else wrote it who knows the format less well."""
        batch: list[Item] = []
        with _open(self.path) as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1 or line.startswith(self._unasked):
                    continue
                try:
                    if (
                        self._wanted is not None
                        and not line.startswith(self._asked)
                        and (passed := self._passed_over(line, self._wanted)) is not None
                    ):
                        batch += passed
                        continue
                    told = orjson.loads(line)
                    if self.cut.unknown_services and self._is_of_unknown(told):
                        continue
                    item = _item(told)
                    _check_place(item, self.cut)
                    batch.append(item)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    yield batch
                    raise Broken(f"{self.path}: line {number} is none of a recording: {error}.") from error
                if len(batch) >= _AT_ONCE:
                    yield batch
                    batch = []
        yield batch

    def _is_of_unknown(self, told: Mapping[str, Any]) -> bool:
        """Tells whether it is about a service that today's code does not know."""
        service = told.get("journal") or told.get("outbox") or self._unknown.get(told.get("topic", ""))
        return service in self.cut.unknown_services

    def rows(self, service: str, table: Table) -> None:
        return None

    async def trimmed(self, service: str) -> Collection[str]:
        return ()

    def digest(self, service: str, table: Table) -> str | None:
        digest: str | None = self.manifest["rows"].get(service, {}).get(table.name)
        return digest

    def edited(self, service: str, table: Table) -> Sequence[EditedRow]:
        told = self.manifest.get("edited", {}).get(service, {}).get(table.name, [])
        return [EditedRow(one["name"], one["values"]) for one in told]

    def ticket(self) -> dict[str, Any]:
        return {"recording": str(self.path.absolute()), "chosen": self.cut.chosen and sorted(self.cut.chosen)}

    def _passed_over(self, line: bytes, wanted: Wanted) -> Sequence[Item] | None:
        """Returns what comes of a line that nobody asked for; None of one that is to be read."""
        of = _OF.match(line)
        if of is None:
            return None  # not as ours are
        name = of[2].decode()
        keys = wanted.get(name)
        if keys is None:
            return () if name in self._named else None
        begin = line.find(_KEY, of.end()) + len(_KEY)
        key = line[begin : line.find(b'"', begin)]
        if begin < len(_KEY) or b"\\" in key or keys(key.decode()):
            return None
        if of[1] != b"topic":
            return [OutboxRecord(name, PASSED_OVER)]
        place = _PLACE.match(line)
        if place is None:
            return None
        partition, offset, since = map(int, place.groups(b"-1"))
        return [TopicRecord(name, partition, offset, 0, True, PASSED_OVER, since)]


def _beginnings(names: Iterable[str]) -> tuple[bytes, ...]:
    """Returns how the lines of these services and topics begin, as we write them."""
    ours = [name.encode() for name in names if not {'"', "\\"} & set(name)]
    return tuple(b'{"%b":"%b",' % (what, name) for name in ours for what in (b"topic", b"journal", b"outbox"))


def narrowed(source: Source, wanted: Wanted) -> Source:
    """Returns a source of which no more is looked at than is asked for, where that is less to do."""
    return source.only(wanted) if isinstance(source, Recording) else source


def _cut_off(line: bytes) -> bool:
    """Tells whether what there is of a first line could be the beginning of a manifest."""
    return not line.endswith(b"\n") and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line))


@contextmanager
def _open(path: Path) -> Iterator["_Lines"]:
    with gzip.open(path, "rb") if _is_gzip(path) else path.open("rb") as file:
        yield _Lines(path, file)  # type: ignore[arg-type]


class _Lines:
    """A file's lines, to a bound: a stranger's takes no more memory than ours. Raises `Broken`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._left = path.stat().st_size * _MOST_UNPACKED + _LONGEST_LINE_BYTES

    def readline(self) -> bytes:
        line = self._file.readline(_LONGEST_LINE_BYTES + 1)
        self._left -= len(line)
        if len(line) > _LONGEST_LINE_BYTES or self._left < 0:
            raise Broken(
                f"{self._path} is none of ours: a line has over {_LONGEST_LINE_BYTES} bytes, or it unpacks "
                f"to over {_MOST_UNPACKED} times its size."
            )
        return line

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


def size_of(source: Source) -> int:
    """Returns how many items it has; of a running system roughly, since nobody counts its journals."""
    if isinstance(source, Recording):
        return sum(source.manifest["counts"].values())
    return 2 * sum(span.end - span.first for span in source.cut.spans.values())


def unpack_item(line: bytes) -> Item:
    return _item(orjson.loads(line))


def unpack_record(line: bytes) -> Record:
    return _record(orjson.loads(line))


def _item(told: Mapping[str, Any]) -> Item:
    if "journal" in told:
        return JournalEntry(
            told["journal"],
            told["position"],
            uuid_of(told["id"]),
            told["key"],
            told["step"],
            told["kind"],
            told["type"],
            told["topic"],
            told["partition"],
            told["offset"],
            uuid_of(told["flow"]) if told["flow"] else None,
            told["outcome"],
            told["command"],
            told["refusal"],
            datetime.fromisoformat(told["now"]),
            datetime.fromisoformat(told["received"]) if told["received"] else None,
            told["code"],
            _wrote(told["wrote"]) if "wrote" in told else None,
        )
    if "outbox" in told:
        return OutboxRecord(told["outbox"], _record(told))
    return TopicRecord(
        told["topic"],
        told["partition"],
        told["offset"],
        told["ts"],
        told["tstype"] == "logappend",
        _record(told),
        told.get("from", -1),
    )


def _wrote(told: Mapping[str, Any]) -> Wrote:
    """What it says of each row is looked at only where the whole differs."""
    return Wrote(told["facts"], told["rows"], told["writes"])


def _check_place(item: Item, cut: Cut) -> None:
    """Raises ValueError where the manifest knows nothing of where it comes from."""
    if isinstance(item, TopicRecord):
        if (item.topic, item.partition) not in cut.spans or type(item.offset) is not int:
            raise ValueError("its place is none of the manifest's")
    elif item.service not in cut.services:
        raise ValueError("its service is none of the manifest's")


def _record(told: Mapping[str, Any]) -> Record:
    encoded = told.get("base64", ())

    def data(name: str, text: str | None) -> bytes | None:
        if text is None:
            return None
        return b64decode(text, validate=True) if name in encoded else text.encode()

    flat = told["headers"]
    headers: Headers
    if encoded or None in flat:
        headers = [
            (flat[index], data(f"headers/{index + 1}", flat[index + 1])) for index in range(0, len(flat), 2)
        ]
    else:
        headers = [(name, text.encode()) for name, text in zip(flat[::2], flat[1::2], strict=True)]
    return Record(data("key", told["key"]), data("payload", told["payload"]), headers)
