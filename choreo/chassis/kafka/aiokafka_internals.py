"""Fetched records, whatever the names of their headers are made of.

Kafka's protocol calls a header's name a string and checks nothing; many clients write any bytes. aiokafka
raises where they are no UTF-8, and never gets past that record, nor do the others of the same fetch. Here
the bytes that are no text become escapes, and the record goes the way of all records. It leans on two private
classes of aiokafka, its readers in pure Python: hold a new version against this.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


class AnyRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """What Kafka answered to a fetch, as batches."""

    def next_batch(self) -> "_Batch":
        raw = self._next_slice
        return _Batch(super().next_batch(), raw)


class _Batch:
    """aiokafka's own, up to a record it cannot read; from there on the lenient one."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

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
