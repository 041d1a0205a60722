"""Start endpoints within batch jobs, and let them reach the bridge.

The ways that a child goes are in `orbit_core.ways`; here is the parent's side of them.
"""
