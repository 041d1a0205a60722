"""Name what makes a run fail, in a text that is the run's error, and runs that there are not."""

from orbit_core.errors import NotFound, OrbitError


class RunFailed(OrbitError):
    """Be the root of what ends a run."""

    code = "run_failed"


class ClusterLost(RunFailed):
    """Report that a cluster that the run needs stayed away for too long."""

    code = "cluster_lost"


class PilotLost(RunFailed):
    """Report that the pilot at which the run works has ended."""

    code = "pilot_lost"


class SimulationsFailed(RunFailed):
    """Report that not one simulation ended well."""

    code = "simulations_failed"


class StepFailed(RunFailed):
    """Report that moving a file, training a model, or the evaluation did not end well."""

    code = "step_failed"


class UnknownRun(NotFound):
    """Answer for a run that the session never had, or that is forgotten."""

    code = "unknown_run"
