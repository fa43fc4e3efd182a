"""All that leans on the insides of aiokafka, each with a test in `tests/unit/test_kafka_internals.py`.

There are four reasons. Kafka's protocol calls a header's name a string and checks nothing; many clients
write any bytes. aiokafka raises where they are no UTF-8, and never gets past that record, nor do the others
of the same fetch. Here the bytes that are no text become escapes, and the record goes the way of all records.

And a list of records does not say what lies between them. aiokafka passes over what Kafka writes for itself
at the end of a transaction, over what was aborted, and over offsets nobody has; whether an offset is missing
because nothing is there or because it was not read, it does not tell. So what it hands over here is a
`Fetched`: a list, as before, that knows where its reading began and where it ended.

And aiokafka asks Kafka for more as soon as something is taken, for whatever partitions are empty then, and
one that is left out waits until that fetch is answered. It may be told to ask only while somebody waits for
records.

And it makes a password's salted form anew for each connection, some milliseconds of a core, of which a start
has a dozen. It is the same for all, and RFC 5802 lets a client remember it.

Importing this makes every client of the process do so. Upstream there is no other way in: the classes
below are named in `aiokafka.consumer` and `aiokafka.conn`, and made there.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from struct import Struct
from typing import Any, NamedTuple

from aiokafka import conn
from aiokafka.consumer import consumer, fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from choreo.message.codec import Record

_BATCH = Struct(">qii")
"""How a batch begins: its first offset, its length, its leader's epoch."""


class Fetched(list[Any]):
    """Records of one partition, and that there are no others from `begin` to before `end`."""

    def __init__(self, records: Iterable[Any], begin: int, end: int, epochs: Sequence[tuple[int, int]]):
        super().__init__(records)
        self.begin, self.end = begin, end
        self._epochs = epochs

    def __bool__(self) -> bool:
        """Also without a record, if it got on."""
        return self.end > self.begin

    def leader_epoch(self, offset: int) -> int:
        """Of the leader that appended what is at this offset; of what lies beside it where nothing is."""
        return self._epochs[max(0, bisect_right(self._epochs, (offset, 2**31)) - 1)][1]


class FetchedRecord(NamedTuple):
    record: Record
    leader_epoch: int


class AnyRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """What Kafka answered to a fetch, as batches."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.epochs: list[tuple[int, int]] = []
        """Of the batches read so far: first offset and leader's epoch."""

    def next_batch(self) -> "_Batch":
        raw = self._next_slice
        batch = _Batch(super().next_batch(), raw)
        first, _, epoch = _BATCH.unpack_from(raw)
        self.epochs.append((first, epoch))
        return batch

    def record_at(self, offset: int) -> FetchedRecord | None:
        while self.has_next():
            for record in self.next_batch():
                if record.offset == offset:
                    told = Record(record.key, record.value, list(record.headers))
                    return FetchedRecord(told, self.epochs[-1][1])
        return None


class _Fetcher(fetcher.Fetcher):  # type: ignore[misc]
    _wanted: frozenset[Any] | None = None
    """Partitions somebody waits for. None where nobody ever said so."""

    @contextmanager
    def asking(self, partitions: Collection[Any]) -> Iterator[None]:
        """From the first time on Kafka is asked only within, and only while nothing is there of these."""
        self._wanted = frozenset(partitions)
        self._notify(self._wait_consume_future)
        try:
            yield
        finally:
            self._wanted = frozenset()

    def _get_actions_per_node(self, assignment: Any) -> Any:
        """Whom to ask for what; how long to wait otherwise, and what else for."""
        if self._wanted is None or (self._wanted and self._wanted.isdisjoint(self._records)):
            return super()._get_actions_per_node(assignment)
        return [], {}, self._fetcher_timeout, False, []


class _FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """What is buffered of a partition."""

    def getall(self, max_records: int | None = None) -> Fetched:
        source = self._partition_records
        begin = source.next_fetch_offset
        records = super().getall(max_records)
        return Fetched(records, begin, source.next_fetch_offset, source._records.epochs)


class _Batch:
    """aiokafka's own, up to a record it cannot read; from there on the lenient one."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except (UnicodeDecodeError, CorruptRecordException):
            yield from islice(_LenientBatch(self._raw), read, None)


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """Raises `CorruptRecordException` for whatever else is wrong with it."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _LenientBytes(self._buffer)


class _LenientBytes(bytearray):
    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(index, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


_salted = lru_cache(maxsize=16)(hashlib.pbkdf2_hmac)


class _Scram(conn.ScramAuthenticator):  # type: ignore[misc]
    def create_salted_password(self, salt: bytes, iterations: int) -> None:
        self._salted_password = _salted(self._hashname, self._sasl_plain_password, salt, iterations)


conn.ScramAuthenticator = _Scram
consumer.Fetcher = _Fetcher
fetcher.MemoryRecords, fetcher.FetchResult = AnyRecords, _FetchResult
