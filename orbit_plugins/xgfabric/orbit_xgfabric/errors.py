"""Name what can go wrong with a workflow.

Importing this module is what lets a client raise these classes again from a reply's ``code``.
"""

from collections.abc import Sequence
from typing import ClassVar

from orbit_core.errors import (
    BadRequest,
    Conflict,
    GatewayTimeout,
    NotFound,
    OrbitError,
    StateUnavailable,
    Unavailable,
    Unprocessable,
)


class InvalidConfig(BadRequest):
    """Refuse a configuration; ``faults`` has one sentence for each fault, with its place."""

    code: ClassVar[str] = "invalid_config"
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, where: str, faults: Sequence[str]) -> "InvalidConfig":
        """Return the error that tells of all ``faults`` in ``where``."""
        error = cls(f"{where}: {'; '.join(faults)}")
        error.faults = tuple(faults)
        return error


class UnknownConfig(NotFound):
    """Answer for a configuration that is neither built in nor in the work directory."""

    code = "unknown_config"


class BuiltinConfig(Conflict):
    """Refuse to save or delete a configuration under a name that is built in."""

    code = "builtin_config"


class InvalidWorkdir(BadRequest):
    """Refuse a work directory that is none, or that cannot be used."""

    code = "invalid_workdir"


class ConfigsUnavailable(StateUnavailable):
    """Report that the configurations in the work directory could not be read or written."""

    code = "configs_unavailable"


class WorkflowRunning(Conflict):
    """Refuse to start a workflow while one runs in the session."""

    code = "workflow_running"


class WorkflowIdle(Conflict):
    """Refuse to stop a workflow where none runs."""

    code = "workflow_idle"


class NoImmediateCluster(Unprocessable):
    """Refuse a run for which no immediate cluster is connected."""

    code = "no_immediate_cluster"


class SensorError(OrbitError):
    """Be the root of what goes wrong while sensor data are acquired."""

    code = "sensor_error"


class SenspotMissing(SensorError, Unprocessable):
    """Report that there is no ``senspot-get`` on this host; the text names where it was sought."""

    status = 422
    code = "senspot_missing"


class SenspotTimeout(SensorError, GatewayTimeout):
    """Report that ``senspot-get`` did not answer in time."""

    status = 504
    code = "senspot_timeout"


class SenspotFailed(SensorError, Unavailable):
    """Report that ``senspot-get`` ended with an error; the text has what it said."""

    status = 503
    code = "senspot_failed"


class GarbledSensor(SensorError, Unprocessable):
    """Report that what a sensor's log holds is not what its configuration says."""

    status = 422
    code = "garbled_sensor"


class StaleSensor(SensorError, Unprocessable):
    """Report that the newest record of a sensor is older than its configuration allows."""

    status = 422
    code = "stale_sensor"


class InvalidReplay(SensorError, BadRequest):
    """Refuse a file of recorded sensor data; the text names the line."""

    status = 400
    code = "invalid_replay"


class NoUsableWind(SensorError, Unprocessable):
    """Report that no record has a wind that can be simulated."""

    status = 422
    code = "no_usable_wind"
