"""Describe the plugin's portal page."""

from orbit_core.models import UIConfig, UIField, UIForm, UIFormSubmit, UIMonitor, UINotifications

_FIELDS = [
    UIField("exec", label="Executable", css_class="rh-exec", default="/bin/echo"),
    UIField("args", label="Arguments", css_class="rh-args", required=False),
    UIField(
        "backends",
        "select",
        label="Backend",
        css_class="rh-backends",
        default="concurrent",
        options=["dragon_v3", "concurrent"],
        options_endpoint="backends",
    ),
    UIField("timeout", "number", label="Timeout (s)", css_class="rh-timeout", required=False),
    UIField("ranks", "number", label="Ranks", css_class="rh-ranks", required=False),
    UIField(
        "type", "select", label="Type", css_class="rh-type", required=False, options=["", "mpi"]
    ),
    UIField("cwd", label="Directory", css_class="rh-cwd", required=False),
]

UI = UIConfig(
    title="Rhapsody Tasks",
    icon="musical score",
    description="Run tasks, and follow their states and results.",
    forms=[UIForm("submit", "Submit a task", "single", _FIELDS, UIFormSubmit(style="success"))],
    monitors=[
        UIMonitor("tasks", "Tasks", "task_list", "rh-output", empty_text="No tasks submitted yet.")
    ],
    notifications=UINotifications("task_status", "uid", "state"),
)
"""The page: a form, and a list that ``task_status`` keeps up to date."""
