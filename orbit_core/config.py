"""Read settings: argument over environment over file over what a bridge on this host left."""

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import attrs

from ._codec import from_config
from .errors import ConfigError
from .ways.models import Tunnel

T = TypeVar("T")

ALIASES = {
    f"ORBIT_{name}": tuple(f"RADICAL_ORBIT_{era}_{name}" for era in ("BRIDGE", "BROKER"))
    for name in ("URL", "TOKEN", "CERT")
}
"""Names of the original system that are read where ours are not set."""

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


@attrs.frozen(kw_only=True)
class BridgeConfig:
    """Hold a bridge's settings, section ``[bridge]``; times are seconds, sizes bytes.

    ``grace`` is how long calls wait for an endpoint whose link broke; ``max_body`` 0 means no
    limit; ``rate_limit`` is the requests that one caller may make a second, 0 without end;
    ``session_cookie_ttl`` is the life of the cookie that ``POST /auth`` gives.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    plugins: list[str] = attrs.field(factory=lambda: ["default"])
    cert: Path | None = None
    key: Path | None = None
    insecure: bool = False
    no_auth: bool = False
    state_dir: Path | None = None
    grace: float = 10.0
    call_timeout: float = 600.0
    max_body: int = 0
    max_connections: int = 10_000
    rate_limit: float = 1000.0
    event_ring_bytes: int = 16 * 1024 * 1024
    event_ring_seconds: float = 600.0
    session_cookie_ttl: float = 12 * 3600.0
    allow_origins: list[str] = attrs.field(factory=list)
    log_level: LogLevel = "INFO"
    log_format: Literal["text", "json"] = "text"


@attrs.frozen(kw_only=True)
class EndpointConfig:
    """Hold an endpoint's settings, section ``[endpoint]``.

    A ``shared`` endpoint takes everybody's calls; others take their owner's and administrators'.
    ``tunnel`` is the way to the bridge that a child endpoint goes, ``tunnel_via`` the login host
    for it, and ``tunnel_dir`` the folder in which it meets its parent.
    """

    name: str | None = None
    url: str | None = None
    plugins: list[str] = attrs.field(factory=lambda: ["default"])
    token_file: Path | None = None
    cert: Path | None = None
    shared: bool = False
    state_dir: Path | None = None
    tunnel: Tunnel = "none"
    tunnel_via: str | None = None
    tunnel_dir: Path | None = None
    log_level: LogLevel = "INFO"
    log_format: Literal["text", "json"] = "text"


@attrs.frozen(kw_only=True)
class ClientConfig:
    """Hold a client's settings, section ``[client]``."""

    url: str | None = None
    token_file: Path | None = None
    cert: Path | None = None


@attrs.frozen(kw_only=True)
class FileConfig:
    """Hold a configuration file; ``plugin`` has one section per plugin instance."""

    bridge: BridgeConfig = attrs.field(factory=BridgeConfig)
    endpoint: EndpointConfig = attrs.field(factory=EndpointConfig)
    client: ClientConfig = attrs.field(factory=ClientConfig)
    plugin: dict[str, dict[str, Any]] = attrs.field(factory=dict)


def read_file(path: Path) -> FileConfig:
    """Read a TOML file. Raises ConfigError, naming every fault with its section and key."""
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(f"{path} may be written by everybody: run chmod o-w {path}")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from None
    return from_config(data, FileConfig, str(path))


def find_file(explicit: Path | None) -> FileConfig:
    """Read the file named, else ``orbit.toml`` in the user's configuration folder if there."""
    if explicit is not None:
        return read_file(explicit)
    usual = _base("XDG_CONFIG_HOME", ".config") / "orbit" / "orbit.toml"
    return read_file(usual) if usual.exists() else FileConfig()


def override(config: T, values: Mapping[str, Any]) -> T:
    """Return ``config`` with those ``values`` that are not None."""
    given = {key: value for key, value in values.items() if value is not None}
    return attrs.evolve(config, **given)  # type: ignore[misc]


def setting(name: str) -> str | None:
    """Return the environment variable ``name`` or its older alias; empty means unset."""
    for candidate in (name, *ALIASES.get(name, ())):
        if value := os.environ.get(candidate):
            return value
    return None


def take(name: str) -> str | None:
    """Return what `setting` does, and take it away from this process and its later children."""
    found = setting(name)
    for candidate in (name, *ALIASES.get(name, ())):
        os.environ.pop(candidate, None)
    return found


def state_home() -> Path:
    """Return the folder that holds the state of this user's bridges and endpoints."""
    return _base("XDG_STATE_HOME", ".local/state") / "orbit"


def _base(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback)


def read_secret(path: Path, what: str) -> str:
    """Return a secret from a file that nobody else may read. Raises ConfigError."""
    check_private(path, what)
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error}") from None
    if not secret:
        raise ConfigError(f"the {what} {path} is empty")
    return secret


def check_private(path: Path, what: str) -> None:
    """Refuse a file that is missing or that others may read. Raises ConfigError."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error}") from None
    if mode & 0o077:
        raise ConfigError(
            f"the {what} {path} is open to others (mode {mode & 0o777:04o}): run chmod 600 {path}"
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@attrs.frozen
class Access:
    """Say how to reach a bridge: its URL, the token to show, the certificate to trust."""

    url: str
    token: str | None = None
    cert: Path | None = None


def resolve_access(
    url: str | None = None,
    token: str | None = None,
    cert: Path | str | None = None,
    *,
    file: ClientConfig | None = None,
) -> Access:
    """Find the bridge: argument over environment over ``file`` over a bridge on this host.

    Raises ConfigError if no URL is found anywhere or what is found is none, if a token file is
    open to others, or if no header can carry the token.
    """
    file = file or find_file(None).client
    local = state_home() / "bridge"
    nearby = _read_if_there(local / "url").rstrip("/")
    found = (url or setting("ORBIT_URL") or file.url or nearby).rstrip("/")
    if not found:
        raise ConfigError(
            "no bridge is named: pass its URL, set ORBIT_URL, or start a bridge on this host"
        )
    check_url(found)
    is_local = found == nearby
    trusted = cert or setting("ORBIT_CERT") or file.cert
    if trusted is None and is_local and (local / "cert.pem").exists():
        trusted = local / "cert.pem"
    secret = token or _token(file.token_file, local / "admin.token" if is_local else None)
    if secret and not (secret.isascii() and secret.isprintable()):
        raise ConfigError("the token has characters that no token has: copy it again, as it is")
    return Access(found, secret, Path(trusted) if trusted else None)


def check_url(url: str) -> None:
    """Refuse what is no URL of a bridge. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an address or a port that is none
        is_one = False
    if not is_one:
        raise ConfigError(f"{url!r} is no bridge URL: write it as https://HOST:PORT or http://…")


def _token(configured: Path | None, local: Path | None) -> str | None:
    if (token := setting("ORBIT_TOKEN")) is not None:
        return token
    named = os.environ.get("ORBIT_TOKEN_FILE") or configured
    if named:
        return read_secret(Path(named), "token file")
    return read_secret(local, "token file") if local is not None and local.exists() else None


def _read_if_there(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
