"""Run a job on an endpoint and follow its output: python first_job.py [ENDPOINT]."""

import sys

from orbit_core import BridgeClient

with BridgeClient() as bridge:
    endpoints = bridge.list_endpoints()
    print("connected:", ", ".join(endpoints))
    name = sys.argv[1] if len(sys.argv) > 1 else next(iter(set(endpoints) - {"bridge"}))
    node = bridge.get_endpoint_client(name)

    metrics = node.get_plugin("sysinfo").get_metrics()
    print(f"{name} uses {metrics['cpu']['percent']} % of its processors")

    psij = node.get_plugin("psij")
    script = "for i in 1 2 3; do echo step $i; sleep 0.2; done"
    job = psij.submit_job({"executable": "/bin/sh", "arguments": ["-c", script]})
    for part in psij.follow_output(job["job_id"]):
        print(part.decode(), end="")
    print("ended as", psij.wait_job(job["job_id"])["state"])
    psij.unregister_session()
