"""Add ``orbit sysinfo``: show a host's metrics once, or watch them."""

import json
from contextlib import closing
from itertools import islice
from typing import Any

import click

from orbit_core.command import json_option, open_plugin, show, table

GIB = 1024**3


@click.group("sysinfo")
def commands() -> None:
    """Ask an endpoint's host what it is and does."""


@commands.command("show")
@click.argument("endpoint")
@json_option
@click.pass_context
def show_command(context: click.Context, endpoint: str, as_json: bool) -> None:
    """Show the metrics of ENDPOINT's host."""
    with open_plugin(context, endpoint, "sysinfo") as plugin:
        show(plugin.get_metrics(), as_json, describe)


@commands.command("watch")
@click.argument("endpoint")
@click.option("--count", type=click.IntRange(min=1), help="End after so many samples.")
@json_option
@click.pass_context
def watch_command(context: click.Context, endpoint: str, count: int | None, as_json: bool) -> None:
    """Print a line a second on ENDPOINT's host (JSON Lines with --json), until interrupted."""
    with (
        open_plugin(context, endpoint, "sysinfo") as plugin,
        closing(plugin.stream_metrics()) as samples,
    ):
        for sample in islice(samples, count):
            click.echo(json.dumps(sample) if as_json else summarise(sample))


def summarise(metrics: dict[str, Any]) -> str:
    """Return one line: processors, load, memory and GPUs."""
    cpu, memory = metrics["cpu"], metrics["memory"]
    gpus = [f"{gpu['id']} {gpu['util_gpu']:g}%" for gpu in metrics["gpus"] if "util_gpu" in gpu]
    parts = [
        f"cpu {cpu['percent']:5.1f}%",
        f"load {cpu['load_avg'][0]:.2f}",
        f"memory {memory['percent']:5.1f}%",
        *gpus,
    ]
    return "  ".join(parts)


def describe(metrics: dict[str, Any]) -> str:
    """Return everything as text, in sections."""
    system, cpu, memory = metrics["system"], metrics["cpu"], metrics["memory"]
    hours, used, total = system["uptime"] / 3600, memory["used"] / GIB, memory["total"] / GIB
    head = [
        f"{system['hostname']}: {system['kernel']} {system['arch']}, up {hours:.1f} h",
        f"{cpu['model']}, {cpu['cores_physical'] or '?'} cores,"
        f" {cpu['cores_logical'] or '?'} threads,"
        f" {cpu['percent']:g}% busy, load {' '.join(f'{load:g}' for load in cpu['load_avg'])}",
        f"memory {used:.1f} of {total:.1f} GiB ({memory['percent']:g}%)",
    ]
    columns = {
        "disks": ["mount", "type", "fstype", "total", "used", "percent"],
        "network": ["interface", "ip", "mac", "speed_mbps"],
        "gpus": ["id", "vendor", "name", "util_gpu", "mem_used", "mem_total"],
    }
    tables = [
        table([_with_sizes(row) for row in metrics[key]], names)
        for key, names in columns.items()
        if metrics[key]
    ]
    return "\n\n".join(["\n".join(head), *tables])


def _with_sizes(row: dict[str, Any]) -> dict[str, Any]:
    sizes = {key: row[key] for key in ("total", "used") if key in row}
    return row | {key: f"{size / GIB:.1f} GiB" for key, size in sizes.items()}
