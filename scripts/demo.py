"""Show the main job working: a bridge, an endpoint that dials in, and a job followed live."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from orbit_core import BridgeClient

SCRIPT = "for i in 1 2 3; do echo step $i on $(hostname); sleep 1; done"


def start(state: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start ``orbit-serve`` and return it with the line that it prints when it is ready."""
    command = [
        str(Path(sys.executable).with_name("orbit-serve")),
        *arguments,
        "--log-level",
        "WARNING",
    ]
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit(f"{' '.join(command)} did not start")
    print(f"    {line}")
    return process, line


def show(bridge: BridgeClient) -> None:
    """List the endpoint, read its metrics, run a job and follow it."""
    print("\n3. A client lists the endpoints")
    for name, entry in bridge.list_endpoints().items():
        print(f"    {name} ({entry['endpoint']['role']}): {', '.join(entry['plugins'])}")
    print("\n4. It reads the machine's metrics")
    node = bridge.get_endpoint_client("demo")
    metrics = node.get_plugin("sysinfo").get_metrics()
    memory, cores = metrics["memory"]["total"] / 2**30, metrics["cpu"]["cores_logical"]
    print(f"    {cores} cores, {memory:.0f} GiB, {metrics['system']['kernel']}")
    print("\n5. It submits a job and follows its states and its output")
    psij = node.get_plugin("psij")
    bridge.register_callback(
        "demo",
        "psij",
        "job_status",
        lambda *event: print(f"    -> {event[3]['state']}", flush=True),
    )
    bridge.wait_for_listener()
    job = psij.submit_job({"executable": "/bin/sh", "arguments": ["-c", SCRIPT]})
    for chunk in psij.follow_output(job["job_id"]):
        print("    |", chunk.decode().rstrip().replace("\n", "\n    | "), flush=True)
    status = psij.wait_job(job["job_id"], timeout=30)
    print(f"    {status['state']} with exit code {status['exit_code']}")
    if status["state"] != "COMPLETED":
        raise SystemExit("the job failed")


def keep(url: str, token: Path) -> None:
    """Say how to go on with curl, and wait to be interrupted."""
    print(f"\nIt is still running at {url}. Try:\n")
    print(f'    TOKEN="Authorization: Bearer $(cat {token})"')
    print(f'    curl -H "$TOKEN" {url}/endpoints')
    print(f'    curl -H "$TOKEN" {url}/demo/sysinfo/homedir')
    print(f'    curl -N -H "$TOKEN" {url}/events')
    print("\nCtrl-C stops it.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def main() -> None:
    """Run the demonstration."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keep", action="store_true", help="leave it running")
    arguments = options.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that nothing of it goes on without it
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory(prefix="orbit-demo-") as folder:
        state = Path(folder)
        processes = []
        try:
            print("1. A bridge starts")
            process, line = start(state, "--role", "bridge", "--port", "0")
            processes.append(process)
            url = line.removeprefix("bridge ready: ")
            print("\n2. An endpoint starts and dials out to it")
            processes.append(start(state, "--role", "endpoint", "--name", "demo", "--url", url)[0])
            token = state / "orbit" / "bridge" / "admin.token"
            with BridgeClient(url, token=token.read_text()) as bridge:
                show(bridge)
            if arguments.keep:
                keep(url, token)
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(15)


if __name__ == "__main__":
    main()
