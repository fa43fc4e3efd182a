"""What no handler may do: what Python reports of it (PEP 578), and functions of which it reports nothing."""

import _posixsubprocess
import _thread
import asyncio
import atexit
import faulthandler
import locale
import os
import posix
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ATTEMPTS = {
    "socket.gethostname": "ask for the host's name",
    "socket.sethostname": "change the host's name",
    "socket.": "open a socket",
    "subprocess.": "start a process",
    "os.system": "start a process",
    "os.exec": "start a process",
    "os.posix_spawn": "start a process",
    "os.spawn": "start a process",
    "os.fork": "start a process",
    "_posixsubprocess.": "start a process",
    "os.wait": "wait for a process",
    "os.kill": "send a signal",
    "signal.": "send or catch a signal",
    "_thread.start_": "start a thread",
    "ctypes.": "call a library",
    "atexit.": "leave something to be done at the end",
    "os.register_at_fork": "leave something to be done at a fork",
    "loop.": "leave something to be done later",
    "sys.addaudithook": "watch the program",
    "sys.setprofile": "watch the program",
    "sys.settrace": "watch the program",
    "os._exit": "end the program",
    "os.abort": "end the program",
    "os.putenv": "change the environment",
    "os.unsetenv": "change the environment",
    "time.clock_settime": "change the clock",
    "os.chdir": "change the directory",
    "os.chroot": "change the directory",
    "resource.setrlimit": "change a limit",
    "os.set_": "change an open file",
    "os.set": "change the process",
    "os.initgroups": "change the process",
    "os.nice": "change the process",
    "os.sched_set": "change the process",
    "os.umask": "change the process",
    "os.unshare": "change the process",
    "syslog.": "write to the system's log",
    "os.write": "write to an open file",
    "os.pwrite": "write to an open file",
    "os.sendfile": "write to an open file",
    "os.copy_file_range": "write to an open file",
    "os.splice": "write to an open file",
    "os.posix_fallocate": "write to an open file",
    "faulthandler.": "write to an open file",
    "os.close": "close an open file",
    "os.dup2": "close an open file",
    "os.lockf": "lock a file",
    "os.login_tty": "change the terminal",
    "os.tcsetpgrp": "change the terminal",
    "termios.": "change the terminal",
    "mmap.": "map a file",
    "_posixshmem.": "share memory",
    "fcntl.": "change an open file",
    "os.mkfifo": "make a file",
    "os.mknod": "make a file",
    "os.memfd_create": "make a file",
    "os.openpty": "make a terminal",
    "os.setxattr": "change a file",
    "os.removexattr": "change a file",
    "sqlite3.connect": "open a database",
    "_gdbm.": "open a database",
    "_dbm.": "open a database",
    "os.remove": "remove a file",
    "os.rmdir": "remove a directory",
    "os.rename": "rename a file",
    "os.mkdir": "make a directory",
    "os.link": "link a file",
    "os.symlink": "link a file",
    "os.truncate": "write a file",
    "os.chmod": "change a file",
    "os.chown": "change a file",
    "os.utime": "change a file",
}
"""By the beginning of the name of Python's audit event, or of the function that has none."""

_UNREPORTED: Mapping[str, ModuleType] = {
    "_exit abort write writev pwrite pwritev sendfile copy_file_range splice posix_fallocate lockf": os,
    "close closerange dup2 set_inheritable set_blocking mkfifo mknod memfd_create openpty": os,
    "login_tty tcsetpgrp register_at_fork wait wait3 wait4 waitid waitpid": os,
    "umask nice chroot unshare setns setsid setpgid setpgrp setpriority setgroups initgroups": os,
    "setuid seteuid setreuid setresuid setgid setegid setregid setresgid": os,
    "sched_setaffinity sched_setparam sched_setscheduler": os,
    "signal setitimer alarm raise_signal pthread_sigmask siginterrupt set_wakeup_fd sigwait pause": signal,
    "clock_settime clock_settime_ns": time,
    "_setlocale": locale,
    "register": atexit,
    "enable register dump_traceback dump_traceback_later": faulthandler,
    "fork_exec": _posixsubprocess,  # what subprocess reports, multiprocessing does not
    # Threads are reported from 3.12 on.
    "start_new_thread" if sys.version_info < (3, 12) else "": _thread,
}
_UNREPORTED_ELSEWHERE = {
    "_posixshmem": "shm_open shm_unlink",
    "_gdbm": "open",
    "_dbm": "open",
    "termios": "tcsetattr",
}
"""Of modules that not every Python has."""


_LATER = "call_soon", "call_later", "call_at", "call_soon_threadsafe"


def _loops(kind: type[Any]) -> Iterator[type[Any]]:
    for loop in kind.__subclasses__():
        yield loop
        yield from _loops(loop)


def unreported() -> Iterator[tuple[ModuleType | type, str]]:
    """Yields each function that has to be replaced by one that reports itself."""
    for names, module in _UNREPORTED.items():
        for name in names.split():
            if hasattr(module, name):
                yield module, name
            if module is os and hasattr(posix, name):
                yield posix, name
    for loop in _loops(asyncio.AbstractEventLoop):
        yield from ((loop, name) for name in _LATER if name in vars(loop))
    for module_name, names in _UNREPORTED_ELSEWHERE.items():
        with suppress(ImportError):
            module = import_module(module_name)
            yield from ((module, name) for name in names.split() if hasattr(module, name))


def attempt_at(event: str, args: tuple[Any, ...]) -> str | None:
    """Says what an audit event, or a function that was replaced, is about to do; None if that is nothing."""
    if event == "open":
        path, _, flags = args
        return f"write the file {path}" if flags & _WRITING else None
    if event == "locale._setlocale":
        return "change the locale (locale.setlocale)" if args[1:] not in ((), (None,)) else None
    return _attempt_called(event)


@cache
def _attempt_called(name: str) -> str | None:
    """Looks it up once: Python reports a look at a frame's code as well, of which there are many a step."""
    found = next((what for beginning, what in _ATTEMPTS.items() if name.startswith(beginning)), None)
    return f"{found} ({name})" if found else None
