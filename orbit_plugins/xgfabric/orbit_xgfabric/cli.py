"""Offer ``orbit xgfabric``: workflows from a shell."""

import click

from . import config_commands, run_commands


@click.group("xgfabric")
def commands() -> None:
    """Run workflows across clusters, and look after their configurations."""


for _command in (*config_commands.COMMANDS, *run_commands.COMMANDS):
    commands.add_command(_command)
