"""Postgres refuses to run as root, and in containers everything is root: there it runs as `NOBODY`.

`NOBODY` may not enter what is closed to others, such as root's own home. Nothing of the user's is opened for
it: what Postgres must reach then lies in a directory of root's that everybody may pass through.
"""

import hashlib
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from choreo.errors import Unavailable

NOBODY = 65534

_OUTSIDE = Path("/var/lib")
"""Not /var/tmp: from there systemd deletes, file by file, what nobody has read for 30 days."""
_PREFIX = "choreo-"


PRIVATE = 0o700


def is_root() -> bool:
    return os.geteuid() == 0


PASSED = 0o711 if is_root() else PRIVATE
"""For the directories above Postgres' own: where we are root it passes through, and so may anybody, who can
list nothing there.
"""


def make_private(directory: Path, mode: int = PRIVATE) -> None:
    """With this mode whatever the umask is. One that is there already is left as it is."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        directory.mkdir(mode)
        directory.chmod(mode)


def become_nobody() -> Callable[[], None] | None:
    """What turns a root child into user `NOBODY`, for `Child(become=...)`; None where we are not root."""
    if not is_root():
        return None

    def become() -> None:
        os.chdir("/")  # where we are may be closed to it
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    return become


def require_name() -> None:
    """Unavailable if the child's user has none: initdb looks for it."""
    user = NOBODY if is_root() else os.geteuid()
    try:
        pwd.getpwuid(user)
    except KeyError:
        raise Unavailable(
            f"Postgres cannot be set up, as user {user} has no name on this machine: give it one (useradd "
            f"--uid {user}), or give every *_DATABASE_URL."
        ) from None


def give_to_nobody(path: Path) -> None:
    """Make the child's user owner of `path` and all below, where that is somebody else than us."""
    if is_root():
        # What is innermost first: otherwise `NOBODY` could put links where we are still to come.
        for each in reversed(list(_with_all_below(path))):
            os.chown(each, NOBODY, NOBODY, follow_symlinks=False)


def meet_nobody_in(directory: Path) -> None:
    """Let the child's user write in `directory`, and root reach the sockets it makes there: by its group, as
    not every root may pass by permissions.
    """
    if is_root():
        directory.chmod(0o2710)
        os.chown(directory, NOBODY, 0)


def remove_tree(path: Path) -> None:
    """Also of `NOBODY`'s, where this root may not pass by permissions. Does nothing if it is not there."""
    if is_root() and path.is_dir() and not path.is_symlink():
        for each in _with_all_below(path):
            os.chown(each, 0, 0, follow_symlinks=False)
    shutil.rmtree(path, ignore_errors=True)


def closed_above(path: Path) -> Path | None:
    """The first directory above `path` that the child's user may not enter; None if it may enter all."""
    above = path.resolve().parents if is_root() else ()
    return next((directory for directory in above if not directory.stat().st_mode & stat.S_IXOTH), None)


class Outside:
    """Where what belongs in `directory` lies as long as `NOBODY` cannot reach it there: named after it, and
    with a symbolic link to here in its place.
    """

    def __init__(self, directory: Path) -> None:
        self._link = directory.parent.resolve() / directory.name
        digest = hashlib.sha256(os.fsencode(self._link)).hexdigest()[:16]
        self.path = _OUTSIDE / f"{_PREFIX}{digest}"
        self._data = self.path / directory.name

    def make(self) -> None:
        """Safe to repeat. Unavailable if something else is there."""
        self.path.mkdir(mode=0o711, exist_ok=True)
        if not self._is_ours():
            raise Unavailable(
                f"{self.path}, where Postgres is to be put, is no directory of root's that nobody else may "
                f"write: remove what is there."
            )
        self.path.chmod(0o711)  # whatever the umask is

    def has_data(self) -> bool:
        """Whether the data is here already. Unavailable if the link leads nowhere, or to another's data."""
        target = self._link.resolve()
        if self._link.is_symlink() and not target.is_dir():
            raise Unavailable(
                f"The databases were in {target}, which is gone: bring it back, restore a backup, or start "
                f"over with choreo up --fresh."
            )
        if target.parent.parent != _OUTSIDE or not target.parent.name.startswith(_PREFIX):
            return False
        if target != self._data:
            raise Unavailable(
                f"{self._link} leads to {target}, the databases of where this was copied or moved from: put "
                f"it back there, restore a backup, or start over with choreo up --fresh."
            )
        self.make()
        return True

    def take_data(self) -> None:
        """Move what the directory holds here, and make it a link. Safe to interrupt."""
        self.make()
        moved = self._link.with_name(f"{self._link.name}.moved")
        if moved.exists() and not any(self._link.iterdir()):
            moved.rename(self._link)
        remove_tree(self._data)  # of a directory of this name that is gone
        shutil.copytree(self._link, self._data, symlinks=True, ignore=shutil.ignore_patterns("run"))
        self._data.chmod(0o711)
        for database in self._data.glob("data*"):
            give_to_nobody(database)
        self._link.rename(moved)
        self._link.symlink_to(self._data)
        remove_tree(moved)

    def copies(self, source: Path, names: Iterable[Path], version: str) -> Path:
        """Where everybody finds these of `source`, copied once for each version. Safe to interrupt."""
        self.make()
        copies = self.path / f"programs-{version}"
        if not copies.exists():
            for old in self.path.glob("programs-*"):
                shutil.rmtree(old)
            aside = self.path / "programs-new"
            for name in names:
                if (source / name).exists():
                    shutil.copytree(source / name, aside / name)
            for each in _with_all_below(aside):
                each.chmod(0o755 if each.stat().st_mode & stat.S_IXUSR else 0o644)
            aside.rename(copies)
        return copies

    def remove(self) -> None:
        """With all that is in it. Does nothing if it is not there, or not ours."""
        if self._is_ours():
            remove_tree(self.path)

    def _is_ours(self) -> bool:
        if not is_root() or not os.path.lexists(self.path):
            return False
        found = self.path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022


def _with_all_below(path: Path) -> Iterator[Path]:
    """Each directory before what is in it."""
    yield path
    for directory, directories, files in os.walk(path):
        yield from (Path(directory, name) for name in (*directories, *files))
