"""Say what both ends of a link's WebSocket agree on."""

import asyncio
import contextlib
import fcntl
import sys
import termios

PATH = "/register"

ENDPOINT = "orbit-endpoint"
PROCESS = "orbit-process"
RESUME_KEY = "orbit-resume-key"
RECEIVED = "orbit-received"
VERSION = "orbit-link-version"
"""Handshake headers: the request's name, process, resume key and count of messages received; the
answer's resume key and, if the earlier link goes on, count of messages received."""

PING_INTERVAL, PING_TIMEOUT = 20.0, 60.0
"""Seconds; lenient, so that a plugin that blocks its endpoint's loop makes it busy, not lost."""


def unsent_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes wait in a transport and, where the system tells, in its socket.

    What a socket holds (Linux, tcp(7), SIOCOUTQ) may take a slow network longer than a minute.
    """
    waiting = transport.get_write_buffer_size()
    with contextlib.suppress(OSError, ValueError):
        answer = fcntl.ioctl(
            transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4)
        )
        waiting += int.from_bytes(answer, sys.byteorder)
    return waiting
