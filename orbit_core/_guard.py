"""Outlive other people's code: plugins, their sessions, users' callbacks."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def outlive(logger: logging.Logger, message: str, *names: object) -> Iterator[None]:
    """Log whatever failure the block has as ``message``, which names whose it is, and go on.

    Cancellation and the end of the process pass.
    """
    try:
        yield
    except Exception:  # such code may fail in any way, and concerns nobody else
        logger.exception(message, *names)
