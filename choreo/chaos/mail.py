"""The mail server as it is, but for moods it is put into by files: `python -m choreo.chaos.mail`."""

from pathlib import Path
from typing import Literal

from choreo.embedded.mail import Maildir, MailSession, main

Mood = Literal["ascii", "refuses"]
"""`ascii`: a server without SMTPUTF8. `refuses`: it takes nothing for the address in the file, which is that
of the first mail it gets in this mood.
"""


def mood_of(maildir: Path, mood: Mood) -> Path:
    """Where it lies, the server is in that mood."""
    return maildir.with_name(f"{maildir.name}.{mood}")


class _Moody(MailSession):
    def __init__(self, maildir: Maildir) -> None:
        super().__init__(maildir)
        self._ascii, self._refuses = mood_of(maildir.path, "ascii"), mood_of(maildir.path, "refuses")

    def understands_utf8(self) -> bool:
        return not self._ascii.exists()

    def refusal(self, recipient: str) -> bytes | None:
        if not self._refuses.exists():
            return None
        if not (refused := self._refuses.read_text()):
            self._refuses.write_text(refused := recipient)
        return b"550 5.1.1 there is nobody of this name" if recipient == refused else None


if __name__ == "__main__":
    main(_Moody)
