"""Be ``orbit``, the command line for users."""

import json
import logging
import sys
import time
from contextlib import closing
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any

import click

from ._command_line import FAILURE, fail, run
from ._guard import load
from .command import json_option, open_client, show, table
from .errors import ConfigError, OrbitError

logger = logging.getLogger(__name__)

COMMANDS = "orbit.commands"
"""Entry-point group in which plugins name their own command groups."""


class _WithPlugins(click.Group):
    """Find the plugins' commands beside the core's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            {*super().list_commands(ctx), *(entry.name for entry in entry_points(group=COMMANDS))}
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        for entry in entry_points(group=COMMANDS, name=cmd_name) if own is None else ():
            own = _loaded(entry)
        return own


def _loaded(entry: EntryPoint) -> click.Command:
    """Return a plugin's command, or one that tells why that cannot be loaded."""
    try:
        found = load(entry)
    except ConfigError as error:
        return _broken(entry.name, error.detail)
    if not isinstance(found, click.Command):
        return _broken(
            entry.name, f"{entry.value} is no command but of type {type(found).__name__}"
        )
    return found


def _broken(name: str, reason: str) -> click.Command:
    def tell() -> None:
        raise click.ClickException(f"the command {name} cannot be loaded: {reason}")

    text = f"Broken: {reason}"
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, anything, tell, help=text, short_help=text)


@click.group(cls=_WithPlugins)
@click.version_option(version("orbit-core"), prog_name="orbit")
@click.option("--url", help="The bridge; else ORBIT_URL, orbit.toml, or a bridge on this host.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File that holds the token.")
@click.option("--cert", type=click.Path(path_type=Path), help="Certificate to trust.")
@click.pass_context
def orbit(ctx: click.Context, url: str | None, token_file: Path | None, cert: Path | None) -> None:
    """Reach HPC machines through an ORBIT bridge.

    These options stand before COMMAND, its own behind it.
    """
    ctx.obj = {"url": url, "cert": cert, "token_file": token_file}


@orbit.command()
@json_option
@click.pass_context
def endpoints(ctx: click.Context, as_json: bool) -> None:
    """List the connected endpoints."""
    with open_client(ctx) as bridge:
        rows = bridge.request("GET", "/endpoints")["endpoints"]
    columns = ["name", "role", "liveness", "plugins"]
    show(
        rows,
        as_json,
        lambda found: table(
            [{**row, "plugins": ", ".join(row["plugins"])} for row in found], columns
        ),
    )


@orbit.command()
@click.argument("endpoint", required=False)
@json_option
@click.pass_context
def plugins(ctx: click.Context, endpoint: str | None, as_json: bool) -> None:
    """Show what became of every plugin installed at ENDPOINT (else at the bridge), and why."""
    with open_client(ctx) as bridge:
        described = (
            bridge.get_endpoint_client(endpoint).describe() if endpoint else bridge.plugins()
        )
    columns = ["name", "type", "state", "version", "reason"]
    show(described["statuses"], as_json, lambda rows: table(rows, columns))


@orbit.command()
@click.argument("route", metavar="ENDPOINT/PLUGIN/ROUTE")
@click.option("-d", "--data", help="JSON body; makes the request a POST. '-' reads standard input.")
@click.option("-X", "--method", help="HTTP method; GET, or POST with --data.")
@json_option
@click.pass_context
def call(
    ctx: click.Context, route: str, data: str | None, method: str | None, as_json: bool
) -> None:
    """Call one route of a plugin and print what it answers."""
    body = _json_argument(sys.stdin.read() if data == "-" else data)
    verb = method or ("GET" if data is None else "POST")
    with open_client(ctx) as bridge:
        answer = bridge.request(verb.upper(), "/" + route.lstrip("/"), body)
    show(answer, as_json, lambda found: json.dumps(found, indent=2))


def _json_argument(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--data") from None


@orbit.command()
@click.option("--endpoint", help="Only of this endpoint.")
@click.option("--plugin", help="Only of this plugin.")
@click.option("--topic", help="Only with this topic.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many notifications.")
@json_option
@click.pass_context
def events(
    ctx: click.Context,
    endpoint: str | None,
    plugin: str | None,
    topic: str | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Follow the notifications, one a line."""
    seen = 0
    with (
        open_client(ctx) as bridge,
        closing(bridge.events(endpoint=endpoint, plugin=plugin, topic=topic)) as found,
    ):
        while seen != count:
            event = next(found)
            seen += event.kind == "notification"
            _print_event(event, as_json)


def _print_event(event: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"topic": event.kind, "data": event.data, "id": event.id}))
    elif event.kind == "notification":
        found = event.data
        click.echo(
            f"{found['endpoint']}/{found['plugin']} {found['topic']} {json.dumps(found['data'])}"
        )
    elif event.kind == "topology":
        click.echo(f"topology: {', '.join(event.data['endpoints']) or 'nobody is connected'}")
    else:
        click.echo(f"gap: {json.dumps(event.data)}")


@orbit.command()
@click.argument("endpoint")
@json_option
@click.pass_context
def disconnect(ctx: click.Context, endpoint: str, as_json: bool) -> None:
    """Tell ENDPOINT to leave (administrators only)."""
    with open_client(ctx) as bridge:
        bridge.disconnect_endpoint(endpoint)
    show(
        {"endpoint": endpoint, "status": "shutdown"},
        as_json,
        lambda _: f"{endpoint} was told to leave",
    )


@orbit.command()
@json_option
@click.pass_context
def terminate(ctx: click.Context, as_json: bool) -> None:
    """Stop the bridge (administrators only)."""
    with open_client(ctx) as bridge:
        bridge.terminate_bridge()
    show({"status": "terminating"}, as_json, lambda _: "the bridge stops now")


@orbit.group()
def token() -> None:
    """Make, list and revoke tokens (administrators only)."""


@token.command("create")
@click.option(
    "--role",
    type=click.Choice(["client", "endpoint", "admin"]),
    default="client",
    show_default=True,
)
@click.option("--owner", required=True, help="Who the token speaks for.")
@click.option("--expires", type=float, metavar="SECONDS", help="Seconds from now; never without.")
@click.option("--endpoint", help="Bind an endpoint's token to this name.")
@json_option
@click.pass_context
def create_token(
    ctx: click.Context,
    role: str,
    owner: str,
    expires: float | None,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Make a token and print it; it is shown only now."""
    with open_client(ctx) as bridge:
        made = bridge.create_token(role, owner, expires=expires, endpoint=endpoint)
    show(made, as_json, lambda found: str(found["token"]))


@token.command("list")
@json_option
@click.pass_context
def list_tokens(ctx: click.Context, as_json: bool) -> None:
    """List the tokens, without their texts."""
    with open_client(ctx) as bridge:
        rows = bridge.list_tokens()
    columns = ["id", "role", "owner", "endpoint", "expires"]
    show(
        rows,
        as_json,
        lambda found: table(
            [{**row, "expires": _moment(row["expires"])} for row in found], columns
        ),
    )


def _moment(seconds: float | None) -> str | None:
    """Return a time of this host's clock that sorts, for people."""
    return None if seconds is None else time.strftime("%F %T %z", time.localtime(seconds))


@token.command("revoke")
@click.argument("token_id")
@json_option
@click.pass_context
def revoke_token(ctx: click.Context, token_id: str, as_json: bool) -> None:
    """Forget a token and cut what it opened."""
    with open_client(ctx) as bridge:
        bridge.revoke_token(token_id)
    show({"ok": True}, as_json, lambda _: f"token {token_id} is revoked")


def main() -> None:
    """Run the command line; a failure is one clear line and exit status 1, or 2 on wrong usage."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        run("orbit", orbit)
    except OrbitError as error:
        fail("orbit", error.detail, FAILURE)
