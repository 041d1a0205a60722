"""Measure files of 1 GiB through staging against the same through a bare application.

Both read and write files in memory. Who receives a file computes its SHA-256, and so does who sends
one up; what the bare application sends down it does not sum up, since it cannot tell the client.
"""

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sites import ROUNDS, TOKEN, Row, Site, client

from orbit_core import BridgeClient

GIB = 1024**3
MIB = 1024**2


def send_plainly(site: Site, source: Path) -> None:
    """Send a file to the bare application."""

    def blocks() -> Iterator[bytes]:
        with source.open("rb") as file:
            while block := file.read(MIB):
                found.update(block)
                yield block

    found = hashlib.sha256()
    with client(None) as http:
        headers = {"Content-Length": str(GIB)}
        reply = http.put(f"{site.bare}/store", content=blocks(), headers=headers)
    assert reply.json() == {"sha256": found.hexdigest()}, reply.text


def receive_plainly(site: Site, target: Path) -> None:
    """Receive that file."""
    found = hashlib.sha256()
    with (
        client(None) as http,
        http.stream("GET", f"{site.bare}/fetch") as reply,
        target.open("wb") as file,
    ):
        for part in reply.iter_raw():
            file.write(part)
            found.update(part)


def seconds(act: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.monotonic()
    act()
    return time.monotonic() - start


def staging_rows(site: Site) -> Iterator[Row]:
    """Measure both in turns, up and down."""
    source, target = site.files / "source", site.files / "target"
    block = os.urandom(MIB)
    with source.open("wb") as file:
        for _ in range(GIB // MIB):
            file.write(block)
    bridge = site.orbit.removesuffix("/node/load")
    with BridgeClient(bridge, token=TOKEN) as found:
        staging = found.get_endpoint_client("node").get_plugin("staging")
        ways = {
            "up": (
                lambda: send_plainly(site, source),
                lambda: staging.put(source, "x", overwrite=True),
            ),
            "down": (
                lambda: receive_plainly(site, target),
                lambda: staging.get("x", target, overwrite=True),
            ),
        }
        for way, (plainly, through_staging) in ways.items():
            pairs = [(seconds(plainly), seconds(through_staging)) for _ in range(ROUNDS)]
            ratio = statistics.median(bare / ours for bare, ours in pairs)
            speed = 1024 / statistics.median(ours for _, ours in pairs)
            what = f"1 GiB {way} through staging"
            figures = f"{ratio:.2f} x ({speed:,.0f} MiB/s)"
            yield Row(what, ">= 0.5 x the bare application", ratio >= 0.5, figures)
    for path in (source, target):
        path.unlink()
