from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

settings.register_profile("shared-host", deadline=None)  # a busy machine is no fault of a parser
settings.load_profile("shared-host")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test in which this plugin blocks the loop."""
    with blockbuster_ctx("orbit_sysinfo") as found:
        # What measures coverage has a lock of its own, which the threads of many files hold, too.
        found.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield found
