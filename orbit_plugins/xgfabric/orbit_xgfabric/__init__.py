"""Run a sensor-driven simulation workflow across the clusters of ORBIT.

This is what a user imports; it needs nothing of what serves the plugin.
"""

from .client import XGFabricClient
from .errors import (
    BuiltinConfig,
    ConfigsUnavailable,
    GarbledSensor,
    InvalidConfig,
    InvalidReplay,
    InvalidWorkdir,
    NoImmediateCluster,
    NoUsableWind,
    SenspotFailed,
    SenspotMissing,
    SenspotTimeout,
    StaleSensor,
    UnknownConfig,
    WorkflowIdle,
    WorkflowRunning,
)
from .failures import ClusterLost, PilotLost, RunFailed, SimulationsFailed, StepFailed, UnknownRun
from .models import (
    ClusterConfig,
    Continuous,
    FieldMap,
    ResourceConfig,
    SensorSource,
    TaskTemplate,
    Timeouts,
    WorkflowConfig,
    config_to_dict,
    dict_to_config,
    dict_to_resource_config,
)
from .states import ClusterStatus, LogEntry, WorkflowState

__all__ = [
    "BuiltinConfig",
    "ClusterConfig",
    "ClusterLost",
    "ClusterStatus",
    "ConfigsUnavailable",
    "Continuous",
    "FieldMap",
    "GarbledSensor",
    "InvalidConfig",
    "InvalidReplay",
    "InvalidWorkdir",
    "LogEntry",
    "NoImmediateCluster",
    "NoUsableWind",
    "PilotLost",
    "ResourceConfig",
    "RunFailed",
    "SensorSource",
    "SenspotFailed",
    "SenspotMissing",
    "SenspotTimeout",
    "SimulationsFailed",
    "StaleSensor",
    "StepFailed",
    "TaskTemplate",
    "Timeouts",
    "UnknownConfig",
    "UnknownRun",
    "WorkflowConfig",
    "WorkflowIdle",
    "WorkflowRunning",
    "WorkflowState",
    "XGFabricClient",
    "config_to_dict",
    "dict_to_config",
    "dict_to_resource_config",
]
