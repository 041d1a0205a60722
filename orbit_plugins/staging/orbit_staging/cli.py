"""Add ``orbit cp`` and ``orbit staging``: move files, and look after them, from a shell."""

import sys
from contextlib import ExitStack
from functools import partial
from typing import Any

import click

from orbit_core.command import json_option, on_endpoint, open_client, open_plugin, show, table
from orbit_core.models import own_sid


@click.command("cp")
@click.argument("source")
@click.argument("target")
@click.option("--recursive", "-r", is_flag=True, help="A directory with all files in it.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.option("--session", "sid", metavar="SID", help="Work in this session instead of your own.")
@json_option
@click.pass_context
def cp(
    context: click.Context,
    source: str,
    target: str,
    overwrite: bool,
    recursive: bool,
    sid: str | None,
    as_json: bool,
) -> None:
    """Copy the file SOURCE to TARGET; either, or both, is ENDPOINT:PATH.

    PATH is relative to your session's directory there. A copy that was cut goes on where it was
    when the command is given again. Of a directory, links and special files are left out.
    """
    (here, path), (there, goal) = _split(source), _split(target)
    if here is None and there is None:
        raise click.UsageError("neither is ENDPOINT:PATH: use cp for files of this host alone")
    with open_client(context) as bridge, Bar(silent=as_json) as bar:
        session = {"sid": sid or own_sid(bridge.whoami()["owner"]), "lifetime": "persistent"}
        plugins = {
            name: bridge.get_endpoint_client(name).get_plugin("staging", **session)
            for name in {here, there} - {None}
        }
        if here is None:
            client = plugins[there]
            move = client.put_folder if recursive else client.put
        elif there is None:
            client = plugins[here]
            move = client.get_folder if recursive else client.get
        else:
            client = plugins[here]
            move = partial(client.copy_folder if recursive else client.copy, to=plugins[there])
        found = move(src=path, tgt=goal, overwrite=overwrite, progress=bar)
    where = found["path"] if there is None else f"{there}:{found['path']}"
    show(found, as_json, lambda value: f"{where}  {_amount(value)}")
    for name in found.get("skipped", ()):
        click.echo(f"left out {printable(name)}: a link, or no plain file", err=True)


def _amount(found: dict[str, Any]) -> str:
    count = f"{found['files']} files, " if "files" in found else ""
    return f"{count}{found['size']} bytes"


def _split(text: str) -> tuple[str | None, str]:
    """Return the endpoint, None for this host, and the path: a colon before any slash tells."""
    name, colon, path = text.partition(":")
    return (name, path) if colon and "/" not in name else (None, text)


class Bar:
    """Draw how far a transfer is, on standard error if that is a terminal."""

    def __init__(self, *, silent: bool) -> None:
        """Draw nothing before the first news, and nothing at all if ``silent``."""
        self._is_silent = silent or not sys.stderr.isatty()
        self._stack = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> "Bar":
        """Begin with nothing drawn."""
        return self

    def __exit__(self, *error: Any) -> None:
        """End the line."""
        self._stack.close()

    def __call__(self, done: int, total: int) -> None:
        """Draw ``done`` of ``total`` bytes."""
        if self._is_silent:
            return
        if self._bar is None:
            bar = click.progressbar(length=total, file=sys.stderr, show_percent=True)
            self._bar = self._stack.enter_context(bar)
        self._bar.update(done - self._bar.pos)


@click.group("staging")
def commands() -> None:
    """Look after the files of your session at an endpoint; orbit cp moves them."""


@commands.command("list")
@on_endpoint
@click.argument("path", default="")
def list_command(
    context: click.Context, endpoint: str, path: str, sid: str | None, as_json: bool
) -> None:
    """List the directory PATH at ENDPOINT, your session's own without one."""
    with open_plugin(context, endpoint, "staging", sid=sid) as client:
        show(client.list(path), as_json, _listing_text)


@commands.command()
@on_endpoint
@click.argument("path", default="")
@click.option("--checksum", is_flag=True, help="Compute the file's SHA-256 as well.")
def stat(
    context: click.Context, /, endpoint: str, path: str, as_json: bool, **options: Any
) -> None:
    """Tell what is at PATH at ENDPOINT."""
    with open_plugin(context, endpoint, "staging", sid=options["sid"]) as client:
        show(client.stat(path, options["checksum"]), as_json, _status_text)


@commands.command()
@on_endpoint
@click.argument("path")
def mkdir(context: click.Context, endpoint: str, path: str, sid: str | None, as_json: bool) -> None:
    """Make the directory PATH at ENDPOINT, with its parents."""
    with open_plugin(context, endpoint, "staging", sid=sid) as client:
        show(client.mkdir(path), as_json, lambda made: str(made["path"]))


@commands.command()
@on_endpoint
@click.argument("path")
@click.option("--recursive", is_flag=True, help="A directory with all that is in it.")
def delete(
    context: click.Context, /, endpoint: str, path: str, as_json: bool, **options: Any
) -> None:
    """Delete the file or empty directory PATH at ENDPOINT."""
    with open_plugin(context, endpoint, "staging", sid=options["sid"]) as client:
        found = client.delete(path, options["recursive"])
    show(found, as_json, lambda gone: f"{gone['path']} is deleted")


@commands.command()
@on_endpoint
@click.argument("path")
def discard(
    context: click.Context, endpoint: str, path: str, sid: str | None, as_json: bool
) -> None:
    """Delete what a broken upload to PATH has left at ENDPOINT, instead of resuming it."""
    with open_plugin(context, endpoint, "staging", sid=sid) as client:
        show(client.discard(path), as_json, lambda gone: f"no upload to {gone['path']} is left")


def _listing_text(listing: dict[str, Any]) -> str:
    rows = [{**entry, "name": printable(entry["name"])} for entry in listing["entries"]]
    return f"{listing['path']}\n{table(rows, ['type', 'size', 'name'])}"


def printable(name: str) -> str:
    """Return a name as a terminal may show it: without what would steer it, or is no UTF-8."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in name
    )


def _status_text(status: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in status.items() if value is not None)
