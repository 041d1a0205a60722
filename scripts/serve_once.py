"""Start a bridge and an endpoint with nothing configured, and check that a plugin is served."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from orbit_core import BridgeClient


def start(state: str, *arguments: str) -> subprocess.Popen[str]:
    """Start ``orbit-serve`` and wait for the line that says that it is ready."""
    command = [str(Path(sys.executable).with_name("orbit-serve")), *arguments]
    environment = {**os.environ, "XDG_STATE_HOME": state}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    print(process.stdout.readline().strip())
    return process


def main(wanted: str) -> None:
    """Exit with 1 unless the plugin ``wanted`` is served."""
    with tempfile.TemporaryDirectory(prefix="orbit-") as state:
        bridge = start(state, "--role", "bridge", "--port", "0")
        endpoint = start(state, "--role", "endpoint", "--name", "node")
        try:
            os.environ["XDG_STATE_HOME"] = state
            with BridgeClient() as client:
                served = client.get_endpoint_client("node").list_plugins()
            if wanted not in served:
                sys.exit(f"{wanted} is not served, only {', '.join(served)}")
        finally:
            for process in (endpoint, bridge):
                process.terminate()
                process.wait(15)


if __name__ == "__main__":
    main(sys.argv[1])
