"""Say which executors jobs may name on this host, and why not the others."""

from collections.abc import Mapping
from typing import Any

import attrs

from .batch_options import Dialect

LOCAL = "local"
"""The executor that runs jobs on this host itself."""


@attrs.frozen
class Offer:
    """Hold the executors that there are, that of this host's scheduler last, and their dialects.

    ``missing`` has the reasons why other executors that PSI/J knows are not offered.
    """

    dialects: Mapping[str, Dialect] = attrs.field(factory=dict)
    missing: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def names(self) -> list[str]:
        """Return what jobs may name."""
        return [LOCAL, *self.dialects]

    def fault(self, executor: Any) -> str | None:
        """Return what is wrong with the name of an executor."""
        if executor in self.names:
            return None
        reason = self.missing.get(executor) if isinstance(executor, str) else None
        why = f" ({reason})" if reason else ""
        return f"executor {executor!r} is not offered here{why}: use {', '.join(self.names)}"
