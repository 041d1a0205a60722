"""Describe the bridge to Prometheus; everything is read when asked, nothing is counted twice."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ._events import EventRing
from ._proxy import Proxy
from ._registry import Registry


class BridgeCollector:
    """Collect a bridge's figures."""

    def __init__(self, registry: Registry, proxy: Proxy, ring: EventRing) -> None:
        """Read from these three."""
        self._registry = registry
        self._proxy = proxy
        self._ring = ring

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of this moment."""
        endpoints = GaugeMetricFamily(
            "orbit_endpoints", "Endpoints by liveness", labels=["liveness"]
        )
        for liveness in ("present", "suspect"):
            found = self._registry.topology().values()
            endpoints.add_metric([liveness], sum(info.liveness == liveness for info in found))
        yield endpoints
        in_flight = sum(len(member.link.streams) for member in self._registry.members)
        yield GaugeMetricFamily("orbit_calls_in_flight", "Calls being relayed", value=in_flight)
        calls = CounterMetricFamily(
            "orbit_calls", "Relayed calls by status code", labels=["status"]
        )
        for status, count in sorted(self._proxy.statuses.items()):
            calls.add_metric([str(status)], count)
        yield calls
        yield CounterMetricFamily("orbit_notifications", "Notifications", value=self._ring.end)
        yield GaugeMetricFamily(
            "orbit_listeners", "Listeners on /events", value=self._ring.listeners
        )


def render(collector: BridgeCollector) -> bytes:
    """Return the figures in Prometheus' text format, version 0.0.4."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
