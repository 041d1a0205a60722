"""Outlive other people's code: plugins, their sessions, users' callbacks."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint

from .errors import ConfigError


@contextmanager
def outlive(logger: logging.Logger, message: str, *names: object) -> Iterator[None]:
    """Log whatever failure the block has as ``message``, which names whose it is, and go on.

    Cancellation and the end of the process pass.
    """
    try:
        yield
    except Exception:  # such code may fail in any way, and concerns nobody else
        logger.exception(message, *names)


def load(entry: EntryPoint) -> object:
    """Return what an entry point names. Raises ConfigError, however that fails."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{entry.value} does not load: {type(error).__name__}: {error}"
        ) from error
