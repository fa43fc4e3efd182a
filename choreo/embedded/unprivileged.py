"""Postgres refuses to run as root, and in containers everything is root."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from choreo.errors import Unavailable

NOBODY = 65534

_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


def is_root() -> bool:
    return os.geteuid() == 0


def become_nobody(*needed: Path) -> Callable[[], None] | None:
    """What turns a root child into user `NOBODY`, for `Child(become=...)`; None where we are not root.

    A directory above `needed` may be closed to others (0700) and is not ours to open: then the child keeps
    one capability to pass through it. Unavailable where even root has none to give.
    """
    if not is_root():
        return None
    closed = [directory for path in needed for directory in _closed_above(path)]
    capability = _passing_capability(closed[0]) if closed else None
    libc = ctypes.CDLL(None, use_errno=True)
    bit = 0 if capability is None else 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable: low words first

    def become() -> None:
        if capability is not None:
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        if capability is not None:
            libc.capset(header, sets)
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)

    return become


def give_to_nobody(path: Path) -> None:
    """Make the child's user owner of `path`, where that is somebody else than us."""
    if is_root():
        shutil.chown(path, NOBODY, NOBODY)


def _closed_above(path: Path) -> list[Path]:
    existing = [directory for directory in path.resolve().parents if directory.exists()]
    return [directory for directory in existing if not directory.stat().st_mode & 0o001]


def _passing_capability(closed: Path) -> int:
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        permitted = int(status.split("CapPrm:")[1].split()[0], 16)
        for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
            if permitted & 1 << capability:
                return capability
    raise Unavailable(
        f"Postgres does not run as root, and the user it runs as instead ({NOBODY}) may not enter {closed}: "
        f"run this as another user, or from a directory open to all, or give the four *_DATABASE_URL."
    )
