"""Keep configurations as files in a work directory: ``<workdir>/configs/<name>.json``.

Nothing outside that directory is read or written, whatever a name says. A ``<name>.toml`` that a
person wrote is read, too; what is saved is JSON. Every method blocks.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import attrs

from orbit_core.errors import InvalidName
from orbit_core.models import check_name

from .builtins import NAMES, RESOURCES, WORKFLOWS, canonical
from .documents import Config, Kind, as_config, kind_of, parse
from .errors import BuiltinConfig, InvalidConfig, UnknownConfig
from .folder import open_folder, read_file, write_file
from .models import ResourceConfig, WorkflowConfig, config_to_dict

FOLDER = "configs"
SUFFIXES = (".json", ".toml")
"""What files of configurations end in; the first goes before the second."""


@attrs.frozen
class ConfigSummary:
    """Describe a file: ``modified`` is ISO 8601 in UTC; ``error`` says why it cannot be used."""

    name: str
    description: str
    modified: str
    kind: Kind = "workflow"
    error: str | None = None


@attrs.frozen
class ConfigFolder:
    """Look after the configurations of one work directory.

    A name is one that is built in, else that of a file, which may have its suffix or its whole path
    in the directory. Every method raises InvalidWorkdir and ConfigsUnavailable.
    """

    workdir: Path

    def summaries(self) -> list[ConfigSummary]:
        """Return what there is, by name."""
        with suppress(FileNotFoundError), open_folder(self.workdir, FOLDER) as folder:
            names = dict.fromkeys(_names(sorted(os.listdir(folder))))
            return [found for name in names if (found := _summary(folder, name))]
        return []

    def load(self, name: str) -> Config:
        """Return the workflow, or the resources, called ``name``.

        Raises InvalidName, UnknownConfig, InvalidConfig.
        """
        return WORKFLOWS.get(canonical(name)) or self._read(name)

    def load_workflow(self, name: str) -> WorkflowConfig:
        """Return the workflow called ``name``. Raises what `load` does."""
        found = self.load(name)
        if isinstance(found, ResourceConfig):
            raise InvalidConfig(f"{name} describes resources: name a workflow")
        return found

    def load_resource(self, name: str) -> ResourceConfig:
        """Return the resources called ``name``. Raises what `load` does."""
        found = RESOURCES.get(canonical(name)) or self._read(name)
        if isinstance(found, WorkflowConfig):
            raise InvalidConfig(f"{name} describes a workflow: name resources")
        return found

    def save(self, data: object) -> str:
        """Write a configuration, given as JSON data, under its own name, which is returned.

        What has that name is replaced. Raises InvalidConfig, InvalidName, BuiltinConfig.
        """
        config = as_config(data, "the configuration")
        name = self._own(config.name)
        text = json.dumps(config_to_dict(config), indent=2) + "\n"
        with open_folder(self.workdir, FOLDER, make=True) as folder:
            write_file(folder, name + SUFFIXES[0], text.encode())
            _unlink(folder, name, SUFFIXES[1:])
        return name

    def delete(self, name: str) -> str:
        """Delete a configuration and return its name.

        Raises InvalidName, BuiltinConfig, UnknownConfig.
        """
        name = self._own(name)
        with suppress(FileNotFoundError), open_folder(self.workdir, FOLDER) as folder:
            if _unlink(folder, name, SUFFIXES):
                return name
        raise self._unknown(name)

    def _checked(self, text: str) -> str:
        """Return the name of a file that is named by its name, file name or path."""
        head, tail = os.path.split(text)
        is_inside = os.path.normpath(head) == os.path.normpath(self.workdir / FOLDER)
        name, suffix = os.path.splitext(tail if is_inside else text)
        return check_name(name if suffix in SUFFIXES else name + suffix, "configuration")

    def _own(self, text: str) -> str:
        name = self._checked(text)
        if name in NAMES:
            raise BuiltinConfig(f"{name} is built in: give your configuration another name")
        return name

    def _read(self, text: str) -> Config:
        name = self._checked(text)
        with suppress(FileNotFoundError), open_folder(self.workdir, FOLDER) as folder:
            for suffix in SUFFIXES:
                with suppress(FileNotFoundError):
                    return as_config(_data(folder, name + suffix), f"{FOLDER}/{name}{suffix}")
        raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownConfig:
        return UnknownConfig(
            f"there is no configuration {name} in {self.workdir / FOLDER}; built in are "
            f"{' and '.join(sorted(NAMES))}"
        )


def _names(files: list[str]) -> Iterator[str]:
    """Iterate over the names of the files that can be configurations."""
    for file in files:
        name, suffix = os.path.splitext(file)
        with suppress(InvalidName):
            if suffix in SUFFIXES:
                yield check_name(name, "configuration")


def _data(folder: int, file: str) -> object:
    where = f"{FOLDER}/{file}"
    return parse(read_file(folder, file, where), os.path.splitext(file)[1], where)


def _summary(folder: int, name: str) -> ConfigSummary | None:
    """Return what a file has, None if it is gone meanwhile."""
    for suffix in SUFFIXES:
        file = name + suffix
        with suppress(FileNotFoundError):
            moment = os.stat(file, dir_fd=folder, follow_symlinks=False).st_mtime
            modified = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
            try:
                data = _data(folder, file)
                config = as_config(data, f"{FOLDER}/{file}")
            except InvalidConfig as error:
                return ConfigSummary(name, "", modified, error=error.detail)
            text = config.description if isinstance(config, WorkflowConfig) else ""
            return ConfigSummary(name, text, modified, kind_of(data))
    return None


def _unlink(folder: int, name: str, suffixes: tuple[str, ...]) -> int:
    """Remove the files of a name and return how many there were."""
    gone = 0
    for suffix in suffixes:
        with suppress(FileNotFoundError):
            os.unlink(name + suffix, dir_fd=folder)
            gone += 1
    return gone
