"""Name the values of which a plugin describes its portal page."""

from typing import Literal

import attrs


@attrs.frozen
class UIField:
    """Describe one input of a portal form."""

    name: str
    type: Literal[
        "text", "select", "number", "textarea", "checkbox", "hidden", "custom_attributes"
    ] = "text"
    label: str = ""
    css_class: str = ""
    default: str = ""
    placeholder: str = ""
    required: bool = True
    options: list[str | dict[str, str]] = attrs.field(factory=list)
    options_endpoint: str | None = None
    options_value_field: str = "name"
    options_label_field: str = "name"
    column: int = 0


@attrs.frozen
class UIFormSubmit:
    """Describe the button of a portal form and the route it posts to."""

    label: str = "Submit"
    style: Literal["success", "primary", "secondary", "danger"] = "primary"
    endpoint: str = "submit/{sid}"


@attrs.frozen
class UIForm:
    """Describe a portal form."""

    id: str
    title: str = ""
    layout: Literal["single", "grid2", "grid3"] = "single"
    fields: list[UIField] = attrs.field(factory=list)
    submit: UIFormSubmit = attrs.field(factory=UIFormSubmit)


@attrs.frozen
class UIMonitor:
    """Describe a portal area that shows live state."""

    id: str
    title: str = ""
    type: Literal["task_list", "metrics", "table", "raw"] = "raw"
    css_class: str = ""
    empty_text: str = ""
    auto_load: str | None = None


@attrs.frozen
class UINotifications:
    """Say which notifications update a plugin's portal page."""

    topic: str
    id_field: str
    state_field: str = "state"


@attrs.frozen
class UIConfig:
    """Describe a plugin's portal page."""

    title: str = ""
    icon: str = "plug"
    description: str = ""
    refresh_button: bool = False
    auto_load: str | None = None
    forms: list[UIForm] = attrs.field(factory=list)
    monitors: list[UIMonitor] = attrs.field(factory=list)
    notifications: UINotifications | None = None
    stub_message: str = ""
    custom_template: bool = False
