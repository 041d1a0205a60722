import os
from collections.abc import Iterator

import pytest

from .cluster import Cluster, open_cluster
from .network import Network, open_network


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run one real SLURM for all tests; where that is not possible they fail."""
    with open_cluster() as found:
        yield found


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Make one network with a bridge host, a login host and compute hosts behind a firewall."""
    with open_network() as found:
        yield found


@pytest.fixture(scope="session")
def walled_cluster(network: Network) -> Iterator[Cluster]:
    """Run one real SLURM on the login and compute hosts of that network."""
    with open_cluster(network.places()) as found:
        yield found


@pytest.fixture
def on_site(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Have the commands of this process reach the cluster, those of PBS too."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{cluster.pbs_commands}:{os.environ['PATH']}")
    return cluster
