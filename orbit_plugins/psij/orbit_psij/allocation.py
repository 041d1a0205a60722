"""Say once what commands that start a job ask of a scheduler."""

import re
from collections.abc import Callable
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Walltime(click.ParamType[int]):
    """Read ``90s``, ``30m``, ``1h``, ``1h30m``, ``2d``, or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return the seconds."""
        text = str(value)
        if text.isascii() and text.isdecimal() and int(text) > 0:
            return int(text)
        if not re.fullmatch(r"(\d{1,6}[smhd])+", text, re.ASCII):
            self.fail(f"{text!r} is no duration, such as 90s, 30m, 1h or 2d", param, ctx)
        parts = re.findall(r"(\d+)([smhd])", text)
        return sum(int(number) * _UNITS[unit] for number, unit in parts)


_OPTIONS = [
    click.option("--queue", help="The queue or partition."),
    click.option("--account", help="Who pays."),
    click.option("--reservation", help="The reservation."),
    click.option("--nodes", type=click.IntRange(min=1), help="How many nodes it gets."),
    click.option("--gpus-per-node", type=click.IntRange(min=1), help="GPUs on each node."),
    click.option("--time", "--duration", "duration", type=Walltime(), help="Its walltime, as 1h."),
]


def allocation_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options, which `allocation` reads."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def allocation(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options as the attributes and resources of a job."""
    return {
        "attributes": {
            "duration": options["duration"],
            "queue_name": options["queue"],
            "account": options["account"],
            "reservation_id": options["reservation"],
        },
        "resources": {
            "node_count": options["nodes"],
            "gpus_per_node": options["gpus_per_node"],
        },
    }
