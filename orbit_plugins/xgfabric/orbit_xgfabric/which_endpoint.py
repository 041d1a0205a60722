"""Find the endpoint that a command of ``orbit xgfabric`` is about."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import click

from orbit_core.command import json_option, open_client
from orbit_core.models import own_sid

PLUGIN = "xgfabric"

_OPTIONS = (
    click.option(
        "--endpoint",
        metavar="NAME",
        envvar="ORBIT_XGFABRIC_ENDPOINT",
        help="Where the workflow is run from; needless if one endpoint alone serves xgfabric.",
    ),
    click.option("--session", "sid", metavar="SID", help="Work in this session, not your own."),
    json_option,
    click.pass_context,
)


def at_endpoint(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--endpoint``, ``--session`` (parameter ``sid``), ``--json``, its context.

    Arguments and options of the command's own stand below.
    """
    return reduce(lambda made, decorate: decorate(made), reversed(_OPTIONS), command)


@contextmanager
def open_workflows(
    context: click.Context, endpoint: str | None, sid: str | None = None
) -> Iterator[Any]:
    """Open a blocking client of the plugin, in the caller's lasting session or in ``sid``.

    Raises ClickException if no endpoint is named, and not one alone serves the plugin.
    """
    with open_client(context) as bridge:
        name = endpoint or _only(bridge.list_endpoints())
        session = sid or own_sid(bridge.whoami()["owner"])
        found = bridge.get_endpoint_client(name)
        yield found.get_plugin(PLUGIN, sid=session, lifetime="persistent")


def _only(endpoints: dict[str, Any]) -> str:
    serving = sorted(
        name
        for name, found in endpoints.items()
        if any(plugin["type"] == PLUGIN for plugin in found["plugins"].values())
    )
    match serving:
        case [name]:
            return name
        case []:
            raise click.ClickException(
                f"no connected endpoint serves {PLUGIN}: install orbit-xgfabric where one runs, "
                "and start it with --plugins default,xgfabric"
            )
        case _:
            raise click.ClickException(
                f"several endpoints serve {PLUGIN}: say --endpoint with one of {', '.join(serving)}"
            )
