"""Compute SHA-256 sums, and remember those of files that have not changed since."""

import base64
import binascii
import hashlib
import os
import re
from collections import OrderedDict

import attrs

from orbit_core.errors import BadRequest

from .errors import FileChanged, typed
from .folders import Identity, is_settled

BLOCK = 1024 * 1024
"""Bytes that are read, written and hashed at one time."""

REMEMBERED = 10_000

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_FIELD = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]+):", re.IGNORECASE)


class Digests:
    """Remember the sums of files; a file that changed is another one."""

    def __init__(self) -> None:
        """Begin without any."""
        self._known: OrderedDict[Identity, str] = OrderedDict()

    def get(self, status: os.stat_result) -> str | None:
        """Return the sum of a file in this state, if it is known."""
        return self._known.get(Identity.of(status))

    def put(self, status: os.stat_result, sha256: str) -> None:
        """Remember a sum, unless the file changed so lately that its times cannot tell."""
        if is_settled(status):
            self._known[Identity.of(status)] = sha256
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def of_file(self, descriptor: int, status: os.stat_result, name: str) -> str:
        """Return the sum of an open file, reading it unless it is known; blocks.

        Raises FileChanged if the file does not hold still.
        """
        known = self.get(status)
        if known is not None:
            return known
        found = hash_start(descriptor, status.st_size).hexdigest()
        if Identity.of(os.fstat(descriptor)) != Identity.of(status):
            raise FileChanged(f"{name} changed while it was read: try again once it is complete")
        self.put(status, found)
        return found


@attrs.define(eq=False)
class Arriving:
    """Be an open file to which bytes are added, and the state of its sum; its methods block."""

    name: str
    descriptor: int
    hash: "hashlib._Hash"
    offset: int

    def append(self, parts: list[bytes]) -> None:
        """Add bytes. Raises DiskFull; what was written before that stays."""
        # Joined: every small write and sum would wait for its turn with the loop's thread again.
        rest = memoryview(b"".join(parts))
        with typed(lambda: self.name):
            while rest:
                count = os.pwrite(self.descriptor, rest, self.offset)
                self.hash.update(rest[:count])
                self.offset += count
                rest = rest[count:]


def hash_start(descriptor: int, size: int) -> "hashlib._Hash":
    """Return the state of SHA-256 after a file's first ``size`` bytes; blocks."""
    found = hashlib.sha256()
    offset = 0
    while offset < size and (block := os.pread(descriptor, min(BLOCK, size - offset), offset)):
        found.update(block)
        offset += len(block)
    return found


def check_sha256(text: str) -> str:
    """Return a hexadecimal sum in small letters. Raises BadRequest."""
    if not _SHA256.fullmatch(text):
        raise BadRequest(f"a SHA-256 has 64 hexadecimal digits, not {text[:80]!r}")
    return text.lower()


def read_digest(field: str | None) -> str | None:
    """Return the SHA-256 in a ``Repr-Digest`` header (RFC 9530), None if there is none.

    Raises BadRequest for one that is no SHA-256.
    """
    found = _FIELD.search(field or "")
    if found is None:
        return None
    try:
        raw = base64.b64decode(found[1], validate=True)
    except binascii.Error as error:
        raise BadRequest(f"the header Repr-Digest is not base64: {error}") from None
    return check_sha256(raw.hex())


def digest_field(sha256: str) -> str:
    """Return the value of ``Repr-Digest`` for a SHA-256."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
