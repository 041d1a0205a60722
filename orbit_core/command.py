"""Build commands of ``orbit``: what the core's own and the plugins' commands share.

A plugin adds commands by naming a `click.Group` in the entry-point group ``orbit.commands``.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ._blocking import BridgeClient
from ._codec import to_data
from .config import read_secret
from .models import own_sid

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Give a command the option ``--json`` and the parameter ``as_json``."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
    return option(command)


def on_endpoint(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ENDPOINT, ``--session`` (parameter ``sid``), ``--json`` and its context.

    Arguments and options of the command's own stand below.
    """
    session = click.option(
        "--session", "sid", metavar="SID", help="Work in this session instead of your own."
    )
    given = session(json_option(click.pass_context(command)))
    return click.argument("endpoint")(given)


def show(
    value: Any, as_json: bool, render: Callable[[Any], str], *, indent: int | None = 2
) -> None:
    """Print ``value`` as JSON, or as the text that ``render`` makes of it.

    Commands that print one value after the other take the ``indent`` None: a line of JSON for each.
    """
    click.echo(json.dumps(to_data(value), indent=indent) if as_json else render(value))


@contextmanager
def open_client(context: click.Context) -> Iterator[BridgeClient]:
    """Open a client for the bridge that the command line or the environment names."""
    options = context.find_root().obj or {}
    file = options.get("token_file")
    token = read_secret(file, "token file") if file else None
    with BridgeClient(options.get("url"), options.get("cert"), token) as client:
        yield client


@contextmanager
def open_plugin(
    context: click.Context, endpoint: str, plugin: str, sid: str | None = None
) -> Iterator[Any]:
    """Open a blocking client for a plugin, in the caller's lasting session or in ``sid``."""
    with open_client(context) as bridge:
        session = sid or own_sid(bridge.whoami()["owner"])
        found = bridge.get_endpoint_client(endpoint)
        yield found.get_plugin(plugin, sid=session, lifetime="persistent")


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Return rows as aligned text with a heading; what is missing or None shows as ``-``."""
    cells = [
        [str(row.get(column)) if row.get(column) is not None else "-" for column in columns]
        for row in rows
    ]
    lines = [[column.upper().replace("_", " ") for column in columns], *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
