"""Be ``orbit-serve``: run a bridge or an endpoint until told to stop."""

import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import click

from ._command_line import FAILURE, USAGE, fail, run
from ._loop import collecting_late, run_server
from .config import BridgeConfig, EndpointConfig, find_file, override, setting, take
from .errors import ConfigError, InvalidName, OrbitError
from .ways.models import TUNNELS


class _JsonLines(logging.Formatter):
    """Write one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


@click.command()
@click.option(
    "--role", type=click.Choice(["bridge", "endpoint"]), required=True, help="What to run."
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings.")
@click.option("--host", help="Bridge: address to listen on (127.0.0.1).")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Bridge: port to listen on (8000); 0 takes a free one.",
)
@click.option("-n", "--name", help="Endpoint: its name (the host's).")
@click.option("--url", help="Endpoint: the bridge to dial.")
@click.option("--plugins", help="Comma-separated names, globs, 'default', 'all' or INSTANCE=NAME.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="Endpoint: file that holds its token."
)
@click.option(
    "--shared",
    is_flag=True,
    default=None,
    help="Endpoint: take every client's calls, not its owner's alone.",
)
@click.option(
    "--tunnel",
    type=click.Choice(TUNNELS),
    help="Child endpoint: its way to the bridge (none: as any other).",
)
@click.option("--tunnel-via", metavar="HOST", help="Child endpoint: the login host for ssh.")
@click.option(
    "--tunnel-dir",
    type=click.Path(path_type=Path),
    help="Child endpoint: the folder in which it meets its parent.",
)
@click.option(
    "--cert",
    type=click.Path(path_type=Path),
    help="Bridge: its certificate. Endpoint: the one to trust.",
)
@click.option("--key", type=click.Path(path_type=Path), help="Bridge: its private key, mode 0600.")
@click.option(
    "--insecure", is_flag=True, default=None, help="Bridge: listen beyond this host without TLS."
)
@click.option(
    "--no-auth", is_flag=True, default=None, help="Bridge: let everybody in as administrator."
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Folder that keeps the state.")
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]))
@click.option("--log-format", type=click.Choice(["text", "json"]))
def serve(role: str, config: Path | None, **options: Any) -> None:
    """Run an ORBIT bridge, or an endpoint that dials out to one."""
    token, named = take("ORBIT_TOKEN"), take("ORBIT_TOKEN_FILE")
    file = find_file(config)
    options["plugins"] = _names(options["plugins"])
    if role == "bridge":
        bridge = override(file.bridge, _fitting(role, BridgeConfig, options))
        _set_up_logging(bridge.log_level, bridge.log_format)
        run_server(_role(role), bridge, file.plugin, token)
    else:
        given = _fitting(role, EndpointConfig, options)
        endpoint = override(override(file.endpoint, _environment(named)), given)
        _set_up_logging(endpoint.log_level, endpoint.log_format)
        shown = None if "token_file" in given else token
        run_server(_role(role), endpoint, file.plugin, shown)


def _role(name: str) -> Callable[..., Awaitable[None]]:
    """Import what serves in a role: an endpoint starts sooner without what only a bridge needs."""
    serve_role: Callable[..., Awaitable[None]] = import_module(f"._{name}_role", __package__).serve
    return serve_role


def _environment(token_file: str | None) -> dict[str, Any]:
    """Return an endpoint's settings from the environment, from which ``token_file`` was taken."""
    paths = {"token_file": token_file, "cert": setting("ORBIT_CERT")}
    found = {name: Path(path) for name, path in paths.items() if path is not None}
    return {**found, "url": setting("ORBIT_URL")}


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _fitting(role: str, kind: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, refusing those that the role does not have."""
    given = {key: value for key, value in options.items() if value is not None}
    known = {field.name for field in attrs.fields(kind)}
    for key in given:
        if key not in known:
            raise click.UsageError(f"--{key.replace('_', '-')} is not for --role {role}")
    return given


def _set_up_logging(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "websockets", "uvicorn", "psij"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def main() -> None:
    """Run the command; exit 2 on wrong usage, 1 on a fatal fault with one clear line."""
    try:
        with collecting_late():
            run("orbit-serve", serve)
    except* OrbitError as group:
        fault = _first(group)
        status = USAGE if isinstance(fault, (ConfigError, InvalidName)) else FAILURE
        fail("orbit-serve", fault.detail, status)


def _first(group: BaseExceptionGroup[OrbitError]) -> OrbitError:
    found: Any = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, OrbitError)
    return found


if __name__ == "__main__":
    main()
