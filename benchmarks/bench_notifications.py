"""Measure notifications from a plugin to listeners on ``/events``."""

import json
import selectors
import socket
import statistics
import time
from urllib.parse import urlsplit

from sites import ROUNDS, TOKEN, Row, Site, client

BURST = 20_000
MARK = b'{"topic":"notification"'
RATE = 1_000
SECONDS = 3


class Listener:
    """Read ``/events`` as fast as the socket gives it, and look at what came afterwards.

    A Python parser would measure itself; what counts is what the bridge sends.
    """

    def __init__(self, url: str) -> None:
        """Listen at a bridge."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.create_connection((parts.hostname, parts.port or 80))
        self.socket.sendall(
            f"GET /events?topics=load HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        self.arrivals: list[tuple[float, bytes]] = []
        self.count, self.tail = 0, b""
        while b"topology" not in (first := self.socket.recv(2**20)):
            assert first

    def take(self) -> None:
        """Read what is there."""
        data = self.socket.recv(2**20)
        assert data, "the bridge closed a listener"
        self.arrivals.append((time.monotonic(), data))
        window = self.tail + data
        self.count += window.count(MARK)
        self.tail = window[1 - len(MARK) :]

    def numbers(self) -> list[tuple[int, float]]:
        """Return the number of each notification and its latency in seconds."""
        found, rest = [], b""
        for arrived, data in self.arrivals:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data: " + MARK):
                    load = json.loads(line[6:])["data"]["data"]
                    found.append((load["number"], arrived - load["sent"]))
        return found


def listen(site: Site, listeners: int, count: int, rate: int) -> tuple[float, list[Listener]]:
    """Have ``count`` notifications sent and return the seconds until all listeners have them."""
    bridge = site.orbit.removesuffix("/node/load")
    found = [Listener(bridge) for _ in range(listeners)]
    with client(site.cert) as caller, selectors.DefaultSelector() as ready:
        for listener in found:
            ready.register(listener.socket, selectors.EVENT_READ, listener)
        sender = sender_socket(site, count, rate)
        start = time.monotonic()
        while any(listener.count < count for listener in found):
            events = ready.select(timeout=10)
            if not events:
                break
            for key, _ in events:
                key.data.take()
        seconds = time.monotonic() - start
        sender.close()
        caller.get(f"{bridge}/health")
    for listener in found:
        listener.socket.close()
    return seconds, found


def sender_socket(site: Site, count: int, rate: int) -> socket.socket:
    """Ask the plugin for notifications without waiting for its answer."""
    parts = urlsplit(site.orbit)
    assert parts.hostname is not None
    found = socket.create_connection((parts.hostname, parts.port or 80))
    found.sendall(
        f"POST {parts.path}/burst?count={count}&rate={rate} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    return found


def notification_rows(site: Site) -> list[Row]:
    """Measure bursts to 1 and to 10 listeners, and the latency of a steady stream."""
    rows = []
    for listeners in (1, 10):
        speeds, lost = [], 0
        for _ in range(ROUNDS):
            seconds, found = listen(site, listeners, BURST, 0)
            speeds.append(BURST / seconds)
            lost += sum(BURST - len({number for number, _ in one.numbers()}) for one in found)
        speed = statistics.median(speeds)
        what = f"{BURST:,} notifications in one burst to {listeners} listener(s)"
        figures = f"{lost} lost, {speed:,.0f}/s each"
        rows.append(Row(what, "0 lost, >= 10,000/s each", not lost and speed >= 10_000, figures))
    medians, slow = [], []
    for _ in range(ROUNDS):
        _, found = listen(site, 1, RATE * SECONDS, RATE)
        delays = sorted(delay * 1000 for _, delay in found[0].numbers())
        medians.append(delays[len(delays) // 2])
        slow.append(delays[len(delays) * 99 // 100])
    median, percentile = statistics.median(medians), statistics.median(slow)
    what = f"latency of notifications at {RATE:,}/s, p50 / p99"
    figures = f"{median:.2f} / {percentile:.2f} ms"
    rows.append(Row(what, "<= 1 / 5 ms", median <= 1 and percentile <= 5, figures))
    return rows
