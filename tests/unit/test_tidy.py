"""Pure rooms know no clock, no chance and no waiting. No folder is crowded. Every session is in UTC. Words of
our own are in the glossary, and those that were given up do not come back.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.walls import packages

ROOT = Path(__file__).parents[2]
SERVICES = packages()
TEMPLATES = ROOT / "choreo" / "templates"
ROOMS = ("commands", "state", "decide", "evolve", "react")

PURE = [
    *(path for service in SERVICES for room in ROOMS if (path := ROOT / service / f"{room}.py").exists()),
    ROOT / "notification_service" / "texts.py",
    *(TEMPLATES / "pinboard_service" / f"{room}.py" for room in ROOMS),
    TEMPLATES / "pinboard_events.py",
    *sorted((ROOT / "events").glob("*.py")),
    *sorted((ROOT / "choreo" / "message").glob("*.py")),
]

MOST_MODULES = 15
"""In a folder of choreo: more are not taken in at a glance."""

REFUSED = {
    *("time", "random", "secrets", "asyncio", "threading", "sched"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
    *("uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom"),
}
"""Modules and names, wherever they come in and whatever they are called there."""


def untidy(source: str) -> list[str]:
    tree = ast.parse(source)
    names: dict[str, str] = {}
    used: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                used.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                used.append((node.lineno, f"{node.module}.{alias.name}"))
    used += [
        (node.lineno, _dotted(node, names))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
    ]
    return sorted({f"line {line}: {name}" for line, name in used if _refused(name)})


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    match node:
        case ast.Name(id=name):
            return names.get(name, f"?{name}")
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted(value, names)}.{attr}"
    return "?"


def _refused(name: str) -> bool:
    return any(name == refused or name.startswith(f"{refused}.") for refused in REFUSED)


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_pure_room_is_tidy(path: Path) -> None:
    assert untidy(path.read_text()) == []


CONNECTS = re.compile(r"(psycopg\.(Async)?Connection\.connect|psycopg\.connect|create_(async_)?engine)\(")
SERVED = [path for room in ("choreo", *SERVICES) for path in sorted((ROOT / room).rglob("*.py"))]


def test_every_session_with_postgres_is_in_utc_whatever_the_server_says() -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path, source in ((path, path.read_text()) for path in SERVED)
        for found in CONNECTS.finditer(source)
        if "session(" not in source[found.start() : found.end() + 100]
    ]
    assert elsewhere == []


@pytest.mark.parametrize(
    "source",
    [
        "from datetime import datetime\ndatetime.now()",
        "from datetime import datetime as d, UTC\nread = d.now\nread(UTC)",
        "import datetime\ndatetime.datetime.utcnow()",
        "from datetime import date\ndate.today()",
        "import time\ntime.time()",
        "from time import monotonic",
        "def f():\n    from time import sleep\n    sleep(1)",
        "import asyncio\nasync def f():\n    await asyncio.sleep(1)",
        "from uuid import uuid4",
        "import uuid as u\nfield(default_factory=u.uuid4)",
        "import random",
        "from random import choice",
        "import os\nos.urandom(8)",
    ],
)
def test_it_sees_a_clock_and_chance_under_any_name(source: str) -> None:
    assert untidy(source)


@pytest.mark.parametrize(
    "source",
    [
        "from datetime import datetime\ndef decide(now: datetime): return now",
        "from uuid import UUID, uuid5",
        "# datetime.now()\n'uuid4'",
        "event.time\nself.random",
    ],
)
def test_it_sees_none_where_there_is_none(source: str) -> None:
    assert untidy(source) == []


def crowded(folder: Path) -> list[str]:
    """This folder, and those in it, that hold more modules than one takes in at a glance."""
    counts = Counter(module.parent for module in folder.rglob("*.py") if module.name != "__init__.py")
    return [
        f"{where.relative_to(folder.parent)}: {count}"
        for where, count in counts.items()
        if count > MOST_MODULES
    ]


def test_no_folder_is_crowded() -> None:
    assert crowded(ROOT / "choreo") == []


def test_it_sees_a_crowded_folder(tmp_path: Path) -> None:
    (room := tmp_path / "package" / "room").mkdir(parents=True)
    for name in ("__init__", *map(str, range(MOST_MODULES))):
        (room / f"{name}.py").touch()
    assert crowded(tmp_path / "package") == []
    (room / "one_more.py").touch()
    assert crowded(tmp_path / "package") == [f"package/room: {MOST_MODULES + 1}"]


OURS = [path for room in ("choreo", "events", *SERVICES) for path in sorted((ROOT / room).rglob("*.py"))]

RETIRED = {
    *("Shelf", "Shelves", "ShelvesByKey", "shelf", "shelves", "recall", "named_by", "what_if"),
    *("ASIDE", "Aside", "asides", "HEARS", "Hears", "hears", "OBEYS", "obeys", "header_names"),
    *("is_refusal", "is_trouble", "lies", "alien", "refute", "ROOM", "CROWD", "PATIENCE"),
    *("Seen", "Entry", "Unpublished", "Bell", "bell", "News", "news", "Depths", "depths", "Shadow", "shadow"),
}
"""Each has a word in the field, or one that says which of several is meant."""


def glossary() -> list[str]:
    """Ours, in the table of ARCHITECTURE that explains them."""
    words = (ROOT / "ARCHITECTURE.md").read_text().partition("## Words")[2].partition("\n## ")[0]
    return re.findall(r"^\| ([a-z]+) \|", words, re.MULTILINE)


@pytest.mark.parametrize("word", glossary())
def test_a_word_of_the_glossary_is_used(word: str) -> None:
    assert any(re.search(rf"\b{word}\b", path.read_text()) for path in OURS)


def test_the_glossary_is_found() -> None:
    assert "kernel" in glossary()


def identifiers(source: str) -> set[str]:
    """Whatever is called or named in it, without leading underscores."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case (
                ast.Name(id=name)
                | ast.Attribute(attr=name)
                | ast.arg(arg=name)
                | ast.keyword(arg=str(name))
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.alias(asname=str(name))
                | ast.alias(name=name)
            ):
                found.add(name.rpartition(".")[2].lstrip("_"))
    return found


def test_no_word_that_was_given_up_comes_back() -> None:
    found = {path: identifiers(path.read_text()) & RETIRED for path in OURS}
    assert {str(path.relative_to(ROOT)): names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source", ["class Bell: ...", "def f(shadow): ...", "_PATIENCE = 5.0", "self._news", "f(asides=[])"]
)
def test_it_sees_a_word_that_was_given_up_wherever_it_stands(source: str) -> None:
    assert identifiers(source) & RETIRED


def test_nothing_that_is_read_can_be_code() -> None:
    """Recordings, journals and records are JSON: what unpickles runs what a stranger wrote."""
    runs = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
    imported = {
        (path.relative_to(ROOT).as_posix(), name.partition(".")[0])
        for path in SERVED
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
    }
    assert not [(path, name) for path, name in imported if name in runs]


def _imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
    return []
