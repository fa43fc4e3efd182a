"""A further service in this tree: the template under another name, its entry point and its tests."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from io import StringIO
from keyword import iskeyword
from pathlib import Path
from token import NAME
from tokenize import generate_tokens

from choreo import templates
from choreo.chassis.installed import GROUP
from choreo.chassis.registry import descriptions, free_port_offset
from choreo.chassis.settings import OBSERVER
from choreo.errors import Unavailable, UsageError

_TEMPLATE = "pinboard"
_SOURCES = Path(templates.__file__).parent
_TESTS = {
    "test_pinboard_decisions.py": "unit",
    "test_pinboard_http.py": "component",
    "test_pinboard_story.py": "choreography",
}
_RESERVED = {
    *(OBSERVER, "choreo", "client", "events", "examples", "live", "tests"),
    # Parts of the compose file, and Kafka's superuser.
    *("admin", "grafana", "kafka", "mail", "migrate", "postgres", "prometheus", "provision"),
    *("docs", "health", "metrics"),  # paths of every service
    *("none", "public", "template0", "template1"),  # Postgres' own
    *("false", "no", "null", "off", "on", "true", "yes"),  # no words in YAML
}
_HEADER = f'[project.entry-points."{GROUP}"]'


def write_service(name: str, root: Path) -> list[Path]:
    """Returns the files that are new. Raises `UsageError` for a name that will not do."""
    project = root / "pyproject.toml"
    if not project.exists() or not (root / "events").is_dir():
        raise Unavailable(f"pyproject.toml and events/ are not in {root}: run this where the shop's lie.")
    _require_usable(name, root)
    offset = free_port_offset()
    written = []
    for source, place in _files(name, root):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_renamed(source.read_text(), name, offset))
        written.append(place)
    project.write_text(_with_entry_point(project.read_text(), name))
    _put_in_form(written, root)
    return written


def install(root: Path) -> None:
    """Python knows an entry point from the metadata of what is installed."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--no-build-isolation", "--no-deps", "-e", str(root)], text=True)
    if done.returncode:
        raise Unavailable("The service could not be installed (see above): run `make .venv/installed`.")


def _require_usable(name: str, root: Path) -> None:
    if not re.fullmatch("[a-z][a-z0-9]{1,29}", name) or iskeyword(name):
        raise UsageError(
            f"{name!r} is no name of a service: take one word of 2 to 30 small letters or digits."
        )
    files = list(_files(name, root))
    if name in descriptions() or find_spec(f"{name}_service"):
        raise UsageError(f"There is a {name} service already: take another word.")
    if name in _RESERVED or {name, name.capitalize()} & _words(source for source, _ in files):
        raise UsageError(f"{name} means something else here already: take another word.")
    if there := next((place for _, place in files if place.exists()), None):
        raise UsageError(f"{there} is there already: take another word, or move it away.")


def _words(sources: Iterable[Path]) -> set[str]:
    """What means something in the template itself: a service of that name would take it away from there."""
    texts = (StringIO(source.read_text()) for source in sources)
    return {word.string for text in texts for word in generate_tokens(text.readline) if word.type == NAME}


def _files(name: str, root: Path) -> Iterator[tuple[Path, Path]]:
    """Yields each file of the template, with where it goes. Tests go where there are tests."""
    package = _SOURCES / f"{_TEMPLATE}_service"
    for source in sorted(package.rglob("*.py")):
        place = source.relative_to(package)
        yield source, root / f"{name}_service" / place.with_name(place.name.replace(_TEMPLATE, name))
    yield _SOURCES / f"{_TEMPLATE}_events.py", root / "events" / f"{name}.py"
    for file, kind in _TESTS.items():
        source = root / "tests" / "templates" / file
        if source.exists():
            yield source, root / "tests" / kind / f"test_{name}.py"


def _renamed(text: str, name: str, offset: int) -> str:
    text = text.replace(f"choreo.templates.{_TEMPLATE}_events", f"events.{name}")
    text = text.replace(f"choreo.templates.{_TEMPLATE}", name)
    text = text.replace(_TEMPLATE, name).replace(_TEMPLATE.capitalize(), name.capitalize())
    return re.sub(r"port_offset=\d+", f"port_offset={offset}", text)


def _with_entry_point(project: str, name: str) -> str:
    line = f'{name} = "{name}_service.service:service"\n'
    if _HEADER not in project:
        return f"{project.rstrip()}\n\n{_HEADER}\n{line}"
    before, _, after = project.partition(f"{_HEADER}\n")
    named = re.match(r"(?:\S.*\n)*", after)
    end = named.end() if named else 0
    return f"{before}{_HEADER}\n{after[:end]}{line}{after[end:]}"


def _put_in_form(files: list[Path], root: Path) -> None:
    """Another name stands elsewhere among the imports. Without ruff the linter says so."""
    if ruff := shutil.which("ruff", path=str(Path(sys.executable).parent)):
        for arguments in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
            subprocess.run([ruff, *arguments, *files], cwd=root, check=False)
