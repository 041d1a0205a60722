"""Offer ``orbit xgfabric configs|show|save|delete``: configurations from a shell."""

import json
from pathlib import Path
from typing import Any

import attrs
import click

from orbit_core.command import show, table

from .builtins import WORKFLOWS
from .documents import as_config, parse
from .models import config_to_dict
from .which_endpoint import at_endpoint, open_workflows

_COLUMNS = ["name", "kind", "modified", "description"]


@click.command()
@at_endpoint
def configs(context: click.Context, endpoint: str | None, sid: str | None, as_json: bool) -> None:
    """List the configurations of the work directory, and those that are built in."""
    with open_workflows(context, endpoint, sid) as client:
        found = client.list_configs()
    show(found, as_json, _list_text)


def _list_text(found: list[dict[str, Any]]) -> str:
    ready = [
        {"name": name, "kind": "workflow", "modified": "built in", "description": it.description}
        for name, it in WORKFLOWS.items()
    ]
    rows = [{**row, "description": row.get("error") or row["description"]} for row in found]
    return table([*ready, *rows], _COLUMNS)


@click.command(name="show")
@at_endpoint
@click.argument("name")
def show_config(
    context: click.Context, endpoint: str | None, sid: str | None, as_json: bool, name: str
) -> None:
    """Print the configuration NAME as JSON, to be edited and saved under another name."""
    with open_workflows(context, endpoint, sid) as client:
        found = client.load_config(name)
    show(found, as_json, lambda config: json.dumps(config, indent=2))


@click.command()
@at_endpoint
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--name", help="Save it under this name instead of the one that it has.")
def save(
    context: click.Context, /, endpoint: str | None, as_json: bool, file: str, **options: Any
) -> None:
    """Save the workflow, or the resources, that the JSON or TOML file FILE describes.

    FILE may be - for JSON on standard input. What has the same name is replaced.
    """
    where = "standard input" if file == "-" else file
    with click.open_file(file, "rb") as opened:
        data = parse(opened.read(), Path(file).suffix, where)
    config = as_config(data, where)
    if options["name"] is not None:
        config = attrs.evolve(config, name=options["name"])
    with open_workflows(context, endpoint, options["sid"]) as client:
        found = client.save_config(config_to_dict(config))
    show(found, as_json, lambda saved: f"{saved['name']} is saved")


@click.command()
@at_endpoint
@click.argument("name")
def delete(
    context: click.Context, endpoint: str | None, sid: str | None, as_json: bool, name: str
) -> None:
    """Delete the configuration NAME from the work directory."""
    with open_workflows(context, endpoint, sid) as client:
        found = client.delete_config(name)
    show(found, as_json, lambda gone: f"{gone['name']} is deleted")


COMMANDS = (configs, show_config, save, delete)
