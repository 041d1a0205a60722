import asyncio
import logging

import pytest

from orbit_core._guard import outlive

logger = logging.getLogger("test")


def test_a_failure_is_logged_with_its_name_and_traceback(caplog):
    with outlive(logger, "plugin %s failed in %s", "a", "notify"):
        raise KeyError("x")

    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "plugin a failed in notify")
    assert record.exc_info[0] is KeyError


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_ends_the_task_or_the_process_passes(kind, caplog):
    with pytest.raises(kind), outlive(logger, "it failed"):
        raise kind

    assert caplog.records == []
