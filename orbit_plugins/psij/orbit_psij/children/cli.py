"""Offer ``orbit spawn``, ``orbit stop`` and ``orbit children``: child endpoints from a shell."""

import time
from collections.abc import Iterator
from typing import Any

import click

from orbit_core.command import json_option, on_endpoint, open_client, open_plugin, show, table
from orbit_core.errors import OrbitError
from orbit_core.ways.models import TUNNELS
from orbit_psij.allocation import allocation, allocation_options

POLL = 0.5
"""Seconds between looks at a child that is on its way."""

_COLUMNS = ["endpoint_name", "stage", "way", "tunnel", "job_id", "reason"]


@click.command()
@on_endpoint
@click.option("--name", required=True, help="What to call the child, below ENDPOINT's name.")
@allocation_options
@click.option(
    "--tunnel",
    type=click.Choice(TUNNELS),
    default="auto",
    show_default=True,
    help="Its way to the bridge.",
)
@click.option("--plugins", help="What it serves, as for orbit-serve.")
@click.option("--executor", help="What runs it: the scheduler, if there is one.")
def spawn(context: click.Context, /, endpoint: str, as_json: bool, **options: Any) -> None:
    """Start an endpoint in a job of ENDPOINT: orbit spawn login1 --name gpu-a --time 1h.

    It returns once the new endpoint is ready; an interrupt leaves it on its way.
    """
    with open_plugin(context, endpoint, "psij", sid=options["sid"]) as client:
        executor = options["executor"] or client.executors()[-1]
        made = client.submit_tunneled(_spec_of(options), executor, options["tunnel"])
        name = made["endpoint_name"]
        found = _follow(client, name, quiet=as_json)
    show(found, as_json, lambda value: f"{name} is ready, by the way {value['way'] or 'direct'}")


def _spec_of(options: dict[str, Any]) -> dict[str, Any]:
    plugins = [] if options["plugins"] is None else ["--plugins", options["plugins"]]
    return {"arguments": ["--name", options["name"], *plugins], **allocation(options)}


def _follow(client: Any, name: str, *, quiet: bool) -> dict[str, Any]:
    """Wait for a child, writing the stages that it goes through into one line."""
    known = ""
    for found in _looks(client, name):
        stage = found["stage"]
        if stage != known and not quiet:
            click.echo(f" -> {stage}" if known else f"{name}: {stage}", nl=False, err=True)
        known = stage
        if stage in ("ready", "over"):
            break
    if not quiet:
        click.echo(err=True)
    if known == "over":
        raise click.ClickException(found["reason"] or f"{name} is over: {found['status']}")
    return found


def _looks(client: Any, name: str) -> Iterator[dict[str, Any]]:
    while True:
        yield client.tunnel_status(name)
        time.sleep(POLL)


@click.command()
@click.argument("name")
@click.option("--login", metavar="ENDPOINT", help="Its parent; else every endpoint is asked.")
@json_option
@click.pass_context
def stop(context: click.Context, name: str, login: str | None, as_json: bool) -> None:
    """End the child endpoint NAME with its job, and return when nothing of it is left."""
    owners = [
        (parent, child["endpoint_name"])
        for parent, child in _children(context, login)
        if _is_called(child["endpoint_name"], parent, name) and child["stage"] != "over"
    ]
    if not owners:
        raise click.ClickException(f"there is no child {name!r}: orbit children lists them")
    if len(owners) > 1:
        names = ", ".join(full for _, full in owners)
        raise click.ClickException(f"{name!r} may be {names}: give the whole name")
    parent, full = owners[0]
    with open_plugin(context, parent, "psij") as client:
        client.stop_child(full)
        found = next(look for look in _looks(client, full) if look["is_clear"])
    show(found, as_json, lambda value: f"{full} is {value['status']}")


def _is_called(full: str, parent: str, name: str) -> bool:
    return name in (full, full.removeprefix(f"{parent}."))


@click.command()
@click.argument("endpoint", required=False)
@json_option
@click.pass_context
def children(context: click.Context, endpoint: str | None, as_json: bool) -> None:
    """List your child endpoints, of ENDPOINT or of all, those that are over included."""
    rows = [child for _, child in _children(context, endpoint)]
    show(rows, as_json, lambda found: table(found, _COLUMNS))


def _children(context: click.Context, endpoint: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Return children with their parents' names; a parent that does not answer is told of."""
    found: list[tuple[str, dict[str, Any]]] = []
    with open_client(context) as bridge:
        rows = bridge.request("GET", "/endpoints")["endpoints"]
        names = [row["name"] for row in rows if "psij" in row["plugins"]]
        for name in [endpoint] if endpoint else names:
            try:
                answer = bridge.request("GET", f"/{name}/psij/children")
            except OrbitError as error:
                if endpoint:
                    raise
                click.echo(f"{name}: {error.detail}", err=True)
                continue
            found += ((name, child) for child in answer["children"])
    return found
