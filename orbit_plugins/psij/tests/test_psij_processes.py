import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest
from orbit_psij.processes import until_exit

pytestmark = pytest.mark.anyio

Process = subprocess.Popen[bytes]


@pytest.fixture
def process() -> Iterator[Process]:
    """Return a process that ends with its standard input."""
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as found:
        yield found


def end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()


async def test_the_end_of_a_process_is_heard_before_anybody_waits_for_it(process: Process) -> None:
    with anyio.move_on_after(0.05) as scope:
        await until_exit(process.pid)
    assert scope.cancelled_caught
    end(process)
    with anyio.fail_after(20):
        await until_exit(process.pid)
    assert process.returncode is None


async def test_a_process_that_is_no_more_is_an_error(process: Process) -> None:
    end(process)
    process.wait()
    with pytest.raises(ProcessLookupError):
        await until_exit(process.pid)
