"""The mail server as it is, but for moods it is put into by files: `python -m choreo.chaos.mail`."""

import asyncio
from pathlib import Path
from typing import Literal

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, Envelope, Session

from choreo.embedded.mail import main

Mood = Literal["ascii", "refuses"]
"""`ascii`: a server without SMTPUTF8. `refuses`: it takes nothing for the address in the file, which is that
of the first mail it gets in this mood.
"""


def mood_of(maildir: Path, mood: Mood) -> Path:
    """Where it lies, the server is in that mood."""
    return maildir.with_name(f"{maildir.name}.{mood}")


class _Moody(Mailbox):  # type: ignore[misc]
    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        file = mood_of(Path(self.mail_dir), "refuses")
        if file.exists():
            if not (refused := file.read_text()):
                file.write_text(refused := address)
            if address == refused:
                return "550 5.1.1 there is nobody of this name"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"


def session(maildir: Path) -> SMTP:
    understands = not mood_of(maildir, "ascii").exists()
    return SMTP(_Moody(maildir), enable_SMTPUTF8=understands, loop=asyncio.get_running_loop())


if __name__ == "__main__":
    main(session)
