"""How much code wires each style: what brings facts out of a service, and into one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_CALLS = ("styles/http",)
_KAFKA_OUT = ("chassis/kafka/partition_producer.py", "chassis/kafka/cluster.py", "chassis/kafka/protocol.py")
_KAFKA_IN = tuple(
    f"chassis/kafka/{name}.py"
    for name in ("consumer", "handover", "faust_internals", "aiokafka_internals", "topic_log", "grants")
)

PARTS: Mapping[str, Sequence[str]] = {
    "http": _CALLS,
    "notifications": (*_CALLS, "styles/notifications", *_KAFKA_OUT, *_KAFKA_IN),
    "collaboration": ("chassis/kafka/relay.py", "chassis/kafka/catch_up.py", *_KAFKA_OUT, *_KAFKA_IN),
}
"""Files and folders below `choreo/`. What all three have (kernel, outbox, HTTP, tables) is left out."""


def lines_of(style: str) -> int:
    """Lines that are not empty."""
    files = [file for part in PARTS[style] for file in _files(_PACKAGE / part)]
    return sum(bool(line.strip()) for file in files for line in file.read_text().splitlines())


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else [path]
