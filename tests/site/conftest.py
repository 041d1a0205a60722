import os
from collections.abc import Iterator

import pytest

from .cluster import Cluster, open_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run one real SLURM for all tests; where that is not possible they fail."""
    with open_cluster() as found:
        yield found


@pytest.fixture
def on_site(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Have the commands of this process reach the cluster, those of PBS too."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{cluster.pbs_commands}:{os.environ['PATH']}")
    return cluster
