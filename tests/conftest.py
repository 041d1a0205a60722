import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def unblocked():
    """Fail a test in which the core blocks the event loop."""
    with blockbuster_ctx("orbit_core"):
        yield
