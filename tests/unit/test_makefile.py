"""Which Python `make` takes. The Pythons are stand-ins: they say which version they are."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STAND_IN = """\
#!/bin/sh
case $1 in
-c) exec '{real}' -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$2" ;;
*) echo "took {name}"; exit 1 ;;
esac
"""


def make(directory: Path, versions: dict[str, tuple[int, int, int]], *arguments: str) -> tuple[str, str]:
    """What was said of which Python is taken, and what was complained, where there are these."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (directory / name).write_bytes((ROOT / name).read_bytes())
    programs = directory / "bin"
    programs.mkdir()
    for tool in ("sh", "make", "rm"):
        (programs / tool).symlink_to(
            next(Path(p, tool) for p in os.get_exec_path() if Path(p, tool).exists())
        )
    for name, version in versions.items():
        (programs / name).write_text(STAND_IN.format(real=sys.executable, version=version, name=name))
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["make", "run", *arguments],
        cwd=directory,
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    return done.stdout.strip(), done.stderr


NEW, OLD, GOOD = (3, 15, 0), (3, 10, 1), (3, 12, 1)


@pytest.mark.parametrize(
    ("versions", "arguments", "taken"),
    [
        ({"python3": NEW, "python3.15": NEW, "python3.12": GOOD}, (), "python3.12"),
        ({"python3.14": (3, 14, 0), "python3.12": GOOD}, (), "python3.14"),
        ({"python3.14": OLD, "python3": GOOD}, (), "python3"),  # the first is there and does not work
        ({"python3.14": (3, 14, 0), "mine": GOOD}, ("PYTHON=mine",), "mine"),
    ],
)
def test_the_newest_that_has_wheels_is_taken(
    tmp_path: Path, versions: dict[str, tuple[int, int, int]], arguments: tuple[str, ...], taken: str
) -> None:
    assert make(tmp_path, versions, *arguments)[0] == f"took {taken}"


@pytest.mark.parametrize(
    ("versions", "arguments"),
    [({}, ()), ({"python3": NEW, "python3.11": OLD}, ()), ({"mine": NEW, "python3": GOOD}, ("PYTHON=mine",))],
)
def test_where_there_is_none_a_sentence_says_what_to_install(
    tmp_path: Path, versions: dict[str, tuple[int, int, int]], arguments: tuple[str, ...]
) -> None:
    taken, complaint = make(tmp_path, versions, *arguments)
    assert taken == ""
    assert (
        "none is a Python 3.11 to 3.14 with venv and pip. Install one (apt install python3-venv" in complaint
    )


def test_the_package_says_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
