"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = ROOT / "docs" / "decisions"

_CODE_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|md|toml|yml|json|lock))`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose(document: Path) -> str:
    return _CODE_BLOCK.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """As code hosts make them of headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose(document)))
    return {heading.replace(" ", "-") for heading in plain}


def missing(document: Path) -> list[str]:
    """Links that lead nowhere, and files that are not where they are said to be."""
    text = prose(document)
    lost = [file for file in _FILE.findall(text) if not (ROOT / file).exists()]
    for link in _LINK.findall(text):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            lost.append(link)
    return lost


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    assert missing(document) == []


def test_it_sees_what_is_not_there(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# A title\n`choreo/nothing.py`, `choreo/chassis/service.py`, [a](no.md) [b](#a-title) [c](#b)\n"
    )
    assert missing(document) == ["choreo/nothing.py", "no.md", "#b"]


def test_decisions_are_numbered_and_listed() -> None:
    pages = [path.name for path in sorted(DECISIONS.glob("0*.md"))]
    numbers = [int(name[:4]) for name in pages]
    assert numbers == sorted(set(numbers))
    assert _LINK.findall((DECISIONS / "README.md").read_text()) == pages


def test_the_architecture_is_read_in_ten_minutes() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().split()) <= 1_600


@pytest.mark.parametrize(
    "word", ["flow", "journal", "kernel", "outbox", "parked", "relay", "step", "waiting"]
)
def test_a_word_of_our_own_is_explained(word: str) -> None:
    assert f"\n| {word} | " in (ROOT / "ARCHITECTURE.md").read_text()
