"""Describe the plugin's portal page."""

from orbit_core.models import UIConfig, UIField, UIForm, UIFormSubmit, UIMonitor, UINotifications

_FIELDS = [
    UIField(
        "exec",
        label="Executable",
        css_class="p-exec",
        default="radical-orbit-endpoint-wrapper.sh",
    ),
    UIField("args", label="Arguments", css_class="p-args", required=False),
    UIField(
        "executor",
        "select",
        label="Executor",
        css_class="p-executor",
        default="local",
        options=["local", "slurm", "pbs", "lsf"],
        options_endpoint="executors",
    ),
    UIField("queue", label="Queue", css_class="p-queue", required=False, column=1),
    UIField("account", label="Account", css_class="p-account", required=False, column=1),
    UIField("duration", label="Walltime (s)", css_class="p-duration", required=False, column=1),
    UIField(
        "node_count",
        "number",
        label="Nodes",
        css_class="p-node-count",
        required=False,
        column=1,
    ),
    UIField(
        "custom",
        "custom_attributes",
        label="Custom attributes",
        css_class="p-custom-attr",
        required=False,
        column=1,
    ),
]

UI = UIConfig(
    title="PsiJ Jobs",
    icon="rocket",
    description="Submit jobs, and follow their states and output.",
    forms=[UIForm("submit", "Submit a job", "grid2", _FIELDS, UIFormSubmit(style="success"))],
    monitors=[
        UIMonitor("jobs", "Jobs", "task_list", "psij-output", empty_text="No jobs submitted yet.")
    ],
    notifications=UINotifications("job_status", "job_id", "state"),
)
"""The page: a form, and a list that ``job_status`` keeps up to date."""
