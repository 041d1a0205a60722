from collections.abc import Iterator

import pytest

from .cluster import Cluster, open_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run one real SLURM for all tests; where that is not possible they fail."""
    with open_cluster() as found:
        yield found
