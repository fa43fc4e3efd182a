"""E-mail addresses, replaced so that whatever was equal is still equal, and nobody can be written to.

Whatever looks like an address is one, wherever it stands: in facts, in commands, in a login. Capitals and
spelling do not count, as they do not count where addresses are compared. The salt is forgotten with this
object: the same address looks different in another recording.
"""

import hashlib
import hmac
import re
import secrets
from unicodedata import normalize

_ADDRESS = re.compile(r'[^\s"\\<>,]+@[^\s"\\<>,]+')


class Redaction:
    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)

    def text(self, text: str) -> str:
        return _ADDRESS.sub(self._replaced, text) if "@" in text else text

    def data(self, data: bytes) -> bytes:
        if b"@" not in data:
            return data
        try:
            return self.text(data.decode()).encode()
        except UnicodeDecodeError:
            return self.text(data.decode("latin-1")).encode("latin-1")

    def _replaced(self, found: re.Match[str]) -> str:
        address = normalize("NFKC", normalize("NFKC", found[0]).casefold()).encode()
        return f"{hmac.new(self._salt, address, hashlib.sha256).hexdigest()[:20]}@redacted.invalid"
