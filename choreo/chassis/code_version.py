"""Which code decides: what the journal keeps of it beside every input."""

from importlib.metadata import version
from pathlib import Path


def code_version(start: Path = Path(__file__)) -> str:
    """Returns the version of choreo, and the commit of the working copy that it lies in, if it lies in one.

    An installed choreo mostly lies in the shop's own working copy: `.venv/` is in it. What was changed there
    and is not committed, the commit does not tell.
    """
    commit = next((_commit(folder / ".git") for folder in start.parents if (folder / ".git").exists()), "")
    return f"{version('choreo-kafka')}+{commit[:12]}" if commit else version("choreo-kafka")


def _commit(git: Path) -> str:
    """Reads what HEAD is, without git: there may be none. Returns nothing where that cannot be told."""
    try:
        if git.is_file():  # a worktree's says where its own is
            git = git.parent / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
        ref = head.removeprefix("ref: ")
        if (common / ref).exists():
            return (common / ref).read_text().strip()
        packed = (line.split(" ") for line in (common / "packed-refs").read_text().splitlines())
        return next((words[0] for words in packed if words[1:] == [ref]), "")
    except (OSError, ValueError):
        return ""
