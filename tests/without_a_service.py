"""`python -m tests.without_a_service [NAME [PART…]]`: where one of its services never was, the shop is whole.

In a checkout of its own, from which the service is taken with its facts: up, doctor and verify are the part
`system`, and each of the others is the tests in a folder that do not speak of it. Together that takes some
minutes; the suite does what takes seconds.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.checkout import Checkout

_PARTS = ("system", "unit", "component", "choreography", "templates")


def main(name: str = "notification", *parts: str) -> int:
    wanted = parts or _PARTS
    if unknown := {*wanted} - {*_PARTS}:
        sys.exit(f"{', '.join(sorted(unknown))}: the parts are {', '.join(_PARTS)}.")
    with TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder, "shop"))
        checkout.take_away(name)
        checkout.install()
        checkout.run(".venv/bin/choreo", "docs")
        if "system" in wanted:
            with checkout.running() as system:
                for verb in ("doctor", "verify"):
                    print(checkout.run(".venv/bin/choreo", verb, **system.environment))
        silent = (file.relative_to(checkout.root) for file in _silent_about(name, checkout.root / "tests"))
        tests = [str(file) for file in silent if file.parts[1] in wanted]
        if not tests and {*wanted} != {"system"}:
            sys.exit("No test is without a word of it: this would prove nothing.")
        if tests:
            print(checkout.run("make", "--assume-old", ".venv/installed", "test", f"ARGS={' '.join(tests)}"))
    return 0


def _silent_about(name: str, tests: Path) -> Iterator[Path]:
    """The files of tests that do not speak of it, nor import what does not work without it: benchmarks are of
    the whole shop.
    """
    sources = {file: file.read_text() for file in sorted(tests.rglob("*.py"))}
    gone = rf"\b(?:events\.{name}|{name}_service|choreo\.benchmarks)\b"
    while broken := [file for file, source in sources.items() if re.search(gone, source)]:
        for file in broken:
            del sources[file]
        modules = (".".join(file.relative_to(tests.parent).with_suffix("").parts) for file in broken)
        gone = rf"\b(?:{'|'.join(map(re.escape, modules))})\b"
    words = "|".join(
        [name, *(rf"{function}\b" for function in _helpers_about(name, (tests / "shop.py").read_text()))]
    )
    # That of all tests imports what it may lack only when a guard is to be taken out.
    broken_folders = {file.parent for file in tests.rglob("*/conftest.py") if file not in sources}
    for file, source in sources.items():
        is_test = file.name.startswith("test_") and broken_folders.isdisjoint(file.parents)
        if is_test and not re.search(rf"\b(?:{words})", source):
            yield file


def _helpers_about(name: str, source: str) -> Iterator[str]:
    """The functions in it that speak of the service, and by which a test does without a word."""
    nodes = ast.walk(ast.parse(source))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    for function in functions:
        if not function.name.startswith("_") and re.search(rf"\b{name}", ast.unparse(function)):
            yield function.name


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
