"""Read configurations from JSON and TOML text."""

import json
import tomllib
from typing import Any, Literal, NoReturn

from .errors import InvalidConfig
from .models import ResourceConfig, WorkflowConfig, dict_to_config, dict_to_resource_config

Config = WorkflowConfig | ResourceConfig
Kind = Literal["workflow", "resource"]

_RESOURCE_KEYS = frozenset({"cluster_configs", "bridge_url", "broker_url"})


def kind_of(data: object) -> Kind:
    """Tell what JSON data describe: resources, if they name clusters or a bridge."""
    is_resource = isinstance(data, dict) and not _RESOURCE_KEYS.isdisjoint(data)
    return "resource" if is_resource else "workflow"


def as_config(data: object, where: str) -> Config:
    """Return what JSON data describe. Raises InvalidConfig, naming ``where`` and every fault."""
    if kind_of(data) == "resource":
        return dict_to_resource_config(data, where)
    return dict_to_config(data, where)


def parse(content: bytes, suffix: str, where: str) -> Any:
    """Return the data of a file: TOML if its ``suffix`` is ``.toml``, else JSON.

    Raises InvalidConfig, naming the line.
    """
    form, read = ("TOML", tomllib.loads) if suffix == ".toml" else ("JSON", _json)
    try:
        return read(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidConfig(f"{where} is no text in UTF-8") from None
    except RecursionError:
        raise InvalidConfig(f"{where} is nested too deeply") from None
    except ValueError as error:  # of both forms, and of numbers with thousands of digits
        raise InvalidConfig(f"{where} is not {form}: {error}") from None


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
