"""Hold what is to be run, once or again and again, and begin the records of its runs."""

import secrets
import time
from typing import Any

import attrs

from .models import (
    ResourceConfig,
    WorkflowConfig,
    config_to_dict,
    dict_to_config,
    dict_to_resource_config,
)
from .records import RunRecord
from .run import time_text
from .states import WorkflowState


@attrs.frozen
class Plan:
    """Say what is to be run; ``config_name`` is what its user called it."""

    workflow: WorkflowConfig
    resource: ResourceConfig
    workdir: str
    config_name: str

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Plan":
        """Return the plan of what `document` returned. Raises InvalidConfig."""
        return cls(
            dict_to_config(data["workflow"]),
            dict_to_resource_config(data["resource"]),
            str(data["workdir"]),
            str(data["config_name"]),
        )

    def document(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "workflow": config_to_dict(self.workflow),
            "resource": config_to_dict(self.resource),
            "workdir": self.workdir,
            "config_name": self.config_name,
        }

    def record(self, holder: str) -> RunRecord:
        """Return the record of a run that begins now."""
        began = time.time()
        run_id = f"run-{secrets.token_hex(4)}"
        state = WorkflowState(
            status="running",
            phase="initializing",
            start_time=time_text(began),
            total_simulations=self.workflow.num_simulations,
            config_name=self.config_name,
            config_dir=self.workdir,
            run_id=run_id,
        )
        return RunRecord(
            run_id=run_id,
            holder=holder,
            workflow=config_to_dict(self.workflow),
            resource=config_to_dict(self.resource),
            workdir=self.workdir,
            began=began,
            state=state,
        )
