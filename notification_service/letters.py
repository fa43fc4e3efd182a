"""A mail's bytes, as the `email` package writes them.

What needs no encoding is filled into a form that the package has written once. All else it writes itself.
"""

import re
from email import message_from_string, policy
from email.headerregistry import Address
from email.message import EmailMessage
from functools import cache, lru_cache
from uuid import UUID

SENDER = Address("The Shop", "shop", "choreo.invalid")
_LONGEST_LINE = 78
"""Characters, of what the package neither folds nor encodes."""
_PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_PLAIN_SUBJECT = re.compile(r"[!-~]+(?: [!-~]+)*")
_PLAIN_TEXT = re.compile(r"(?:[!-<>-~]+(?: [!-<>-~]+)*\n)+")
"""Without `=`, which quoted-printable has a use for."""
_TOO_LONG = re.compile(rf".{{{_LONGEST_LINE - 1}}}(?=..)")
_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")


def letter(id: UUID, email: str, subject: str, text: str, *, eight_bit: bool) -> bytes:
    """What SMTP sends after DATA, with the line with a dot alone. `eight_bit`: the server takes such bytes.

    Raises, whatever that may be, where no message can name the address as it is.
    """
    if is_plain(email) and _is_plain(subject, text):
        body = _TOO_LONG.sub(r"\g<0>=\n", text)
        filled = _form(quoted=body != text) % (email, subject, id, body.replace("\n", "\r\n"))
        content = filled.encode()
    else:
        content = _ANY_LINE_END.sub(b"\r\n", _written(_message(id, email, subject, text), eight_bit))
        if not content.endswith(b"\r\n"):
            content += b"\r\n"
    return content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def is_plain(email: str) -> bool:
    """Whether nobody reads it otherwise than it is written, in a header or on a line of SMTP."""
    return len(f"To: {email}") <= _LONGEST_LINE and _PLAIN_ADDRESS.fullmatch(email) is not None


def _is_plain(subject: str, text: str) -> bool:
    return (
        len(f"Subject: {subject}") <= _LONGEST_LINE
        and "=?" not in subject
        and _PLAIN_SUBJECT.fullmatch(subject) is not None
        and _PLAIN_TEXT.fullmatch(text) is not None
    )


@cache
def _form(*, quoted: bool) -> str:
    """To be filled with address, subject, id and body. `quoted`: a line is too long to stand as it is."""
    nobody = UUID(int=0)
    message = _message(nobody, "to@example", "subject", "x" * (_LONGEST_LINE + quoted))
    head, _, _ = _written(message, eight_bit=True).decode().partition("\r\n\r\n")
    for value in ("to@example", "subject", str(nobody)):
        assert head.count(value) == 1
        head = head.replace(value, "%s")
    return f"{head}\r\n\r\n%s"


def _message(id: UUID, email: str, subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = _recipient(email)
    message["Subject"] = subject
    message["Message-ID"] = f"<{id}@choreo.invalid>"
    message.set_content(text)
    return message


@lru_cache(maxsize=10_000)
def _recipient(email: str) -> Address:
    """Raises, whatever that may be, where whoever reads the message would read another address."""
    local, _, domain = email.rpartition("@")
    address = Address(username=local, domain=domain)
    message = EmailMessage()
    message["To"] = address
    read = message_from_string(message.as_string(policy=policy.SMTPUTF8), policy=policy.default)
    if [one.addr_spec for one in read["To"].addresses] != [email]:
        raise ValueError(f"a message would name {read['To']}")
    return address


def _written(message: EmailMessage, eight_bit: bool) -> bytes:
    how = policy.SMTP if message["To"].addresses[0].addr_spec.isascii() else policy.SMTPUTF8
    return message.as_bytes(policy=how if eight_bit else how.clone(cte_type="7bit"))
