import os
from pathlib import Path

import pytest

from orbit_core.config import (
    ALIASES,
    Access,
    BridgeConfig,
    ClientConfig,
    EndpointConfig,
    FileConfig,
    find_file,
    override,
    read_file,
    read_secret,
    resolve_access,
    setting,
    state_home,
    take,
    write_private,
)
from orbit_core.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if "ORBIT" in name]:
        monkeypatch.delenv(name)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def local_bridge(home, url="https://127.0.0.1:8000"):
    state = home / ".local/state/orbit/bridge"
    written(state / "url", url + "\n")
    written(state / "admin.token", "local-secret\n")
    return state


def test_a_file_is_read_section_by_section(home):
    path = written(
        home / "x.toml",
        '[bridge]\nport = 1\ncert = "~/c.pem"\n[endpoint]\nname = "n"\n[client]\nurl = "u"\n'
        "[plugin.psij]\nlimit = 3\n",
    )

    assert read_file(path) == FileConfig(
        bridge=BridgeConfig(port=1, cert=home / "c.pem"),
        endpoint=EndpointConfig(name="n"),
        client=ClientConfig(url="u"),
        plugin={"psij": {"limit": 3}},
    )


def test_a_bridge_has_no_name_of_its_own(home):
    path = written(home / "x.toml", '[bridge]\nname = "hub"\n')
    with pytest.raises(ConfigError) as told:
        read_file(path)

    assert told.value.detail == f"{path}: unknown: name at bridge"


def test_every_fault_of_a_file_is_named_with_its_section(home):
    path = written(home / "x.toml", '[bridge]\nport = "1"\nprot = 2\n[client]\nurl = 3\n')
    with pytest.raises(ConfigError) as told:
        read_file(path)

    assert told.value.detail.startswith(f"{path}: ")
    for fault in (
        "expected int, got str at bridge.port",
        "unknown: prot at bridge",
        "expected str, got int at client.url",
    ):
        assert fault in told.value.detail


@pytest.mark.parametrize("text", ["[bridge", "a = [" + "[" * 50_000], ids=["cut off", "deep"])
def test_a_file_that_is_not_toml_is_refused(home, text):
    path = written(home / "x.toml", text)
    with pytest.raises(ConfigError, match=rf"^the configuration file {path} is not TOML: "):
        read_file(path)


def test_a_file_that_is_not_utf8_is_refused(home):
    path = home / "x.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=rf"^the configuration file {path} cannot be read: "):
        read_file(path)


def test_a_file_that_is_missing_is_refused_if_it_was_named(home):
    with pytest.raises(ConfigError, match=r"cannot be read: .*No such file"):
        find_file(home / "none.toml")


def test_a_file_that_everybody_may_write_is_refused(home):
    path = written(home / "x.toml", "")
    path.chmod(0o666)
    with pytest.raises(ConfigError) as told:
        read_file(path)

    assert told.value.detail == f"{path} may be written by everybody: run chmod o-w {path}"


def test_the_usual_file_is_found_if_it_is_there(home, monkeypatch):
    assert find_file(None) == FileConfig()
    written(home / ".config/orbit/orbit.toml", "[bridge]\nport = 5\n")
    assert find_file(None).bridge.port == 5
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "other"))
    assert find_file(None) == FileConfig()


def test_only_given_values_override():
    config = override(BridgeConfig(port=1, host="h"), {"port": 0, "host": None, "no_auth": False})

    assert (config.port, config.host, config.no_auth) == (0, "h", False)


@pytest.mark.parametrize("name", ["ORBIT_URL", *ALIASES["ORBIT_URL"]])
def test_a_setting_is_read_from_its_name_or_an_older_one(monkeypatch, name):
    monkeypatch.setenv(name, "here")

    assert setting("ORBIT_URL") == "here"


def test_an_empty_setting_is_unset_and_the_new_name_comes_first(monkeypatch):
    monkeypatch.setenv("RADICAL_ORBIT_BROKER_URL", "old")
    monkeypatch.setenv("ORBIT_URL", "")
    assert setting("ORBIT_URL") == "old"
    monkeypatch.setenv("ORBIT_URL", "new")
    assert setting("ORBIT_URL") == "new"
    assert setting("ORBIT_NOTHING") is None


def test_state_lives_in_the_users_state_folder(home, monkeypatch):
    assert state_home() == home / ".local/state/orbit"
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_home() == Path("/s/orbit")


def test_a_private_file_is_written_whole_and_only_for_its_owner(home):
    path = home / "secret"
    path.write_text("something longer than the new text")
    write_private(path, "new")

    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert [entry.name for entry in home.iterdir()] == ["secret"]


def test_a_private_file_is_not_written_through_a_planted_link(home):
    victim = written(home / "victim", "untouched")
    (home / f".secret.{os.getpid()}").symlink_to(victim)
    write_private(home / "secret", "new")

    assert victim.read_text() == "untouched"
    assert (home / "secret").read_text() == "new"


def test_a_private_file_that_cannot_be_placed_leaves_no_draft(home):
    (home / "secret").mkdir()
    with pytest.raises(IsADirectoryError):
        write_private(home / "secret", "new")

    assert [entry.name for entry in home.iterdir()] == ["secret"]


def test_a_secret_is_read_without_its_line_end(home):
    assert read_secret(written(home / "s", "abc\n"), "token file") == "abc"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601], ids=oct)
def test_a_secret_that_is_open_to_others_is_refused(home, mode):
    path = written(home / "s", "abc")
    path.chmod(mode)
    with pytest.raises(ConfigError) as told:
        read_secret(path, "token file")

    assert told.value.detail == (
        f"the token file {path} is open to others (mode {mode:04o}): run chmod 600 {path}"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read: "), (b" \n", "is empty"), (b"\xff", "cannot be read: ")],
    ids=["missing", "blank", "no text"],
)
def test_a_secret_that_is_none_is_refused(home, content, reason):
    path = home / "s"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(ConfigError, match=rf"^the token file {path} {reason}"):
        read_secret(path, "token file")


def test_without_any_url_the_error_says_what_to_do():
    with pytest.raises(ConfigError) as told:
        resolve_access()

    assert told.value.detail == (
        "no bridge is named: pass its URL, set ORBIT_URL, or start a bridge on this host"
    )


@pytest.mark.parametrize(
    "url",
    ["hub", "hub:8443", "localhost:8000", "ftp://hub", "https://:8000", "http://[", "http://h:x"],
)
def test_what_is_no_url_of_a_bridge_is_refused(url):
    with pytest.raises(ConfigError) as told:
        resolve_access(url)

    assert told.value.detail == (
        f"{url!r} is no bridge URL: write it as https://HOST:PORT or http://…"
    )


@pytest.mark.parametrize("token", ["blä", "a\nb"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token):
    with pytest.raises(ConfigError, match="the token has characters") as told:
        resolve_access("http://hub", token)

    assert token not in told.value.detail


def test_an_argument_comes_before_environment_file_and_local_bridge(home, monkeypatch):
    local_bridge(home)
    file = ClientConfig(url="https://file", cert=Path("/file.pem"))
    assert resolve_access(file=file) == Access("https://file", None, Path("/file.pem"))
    monkeypatch.setenv("ORBIT_URL", "https://env/")
    monkeypatch.setenv("ORBIT_TOKEN", "env-token")
    monkeypatch.setenv("ORBIT_CERT", "/env.pem")
    assert resolve_access(file=file) == Access("https://env", "env-token", Path("/env.pem"))
    assert resolve_access("https://arg", "arg-token", "/arg.pem", file=file) == Access(
        "https://arg", "arg-token", Path("/arg.pem")
    )


def test_what_is_taken_from_the_environment_is_gone(monkeypatch):
    monkeypatch.setenv("RADICAL_ORBIT_BRIDGE_TOKEN", "older")
    monkeypatch.setenv("ORBIT_TOKEN", "secret")

    assert take("ORBIT_TOKEN") == "secret"
    assert take("ORBIT_TOKEN") is None


def test_the_local_bridge_is_found_with_its_token_and_certificate(home):
    state = local_bridge(home)
    assert resolve_access() == Access("https://127.0.0.1:8000", "local-secret", None)
    (state / "cert.pem").touch()
    assert resolve_access("https://127.0.0.1:8000/").cert == state / "cert.pem"


def test_the_local_bridges_secrets_go_to_no_other_bridge(home):
    (local_bridge(home) / "cert.pem").touch()

    assert resolve_access("https://elsewhere") == Access("https://elsewhere", None, None)


def test_a_local_bridge_without_authentication_needs_no_token(home):
    (local_bridge(home) / "admin.token").unlink()

    assert resolve_access().token is None


def test_a_token_file_may_be_named_by_environment_or_file(home, monkeypatch):
    file = ClientConfig(url="https://b", token_file=written(home / "a", "from-file"))
    assert resolve_access(file=file).token == "from-file"
    monkeypatch.setenv("ORBIT_TOKEN_FILE", str(written(home / "b", "from-env")))
    assert resolve_access(file=file).token == "from-env"
    monkeypatch.setenv("ORBIT_TOKEN", "env-token")
    assert resolve_access(file=file).token == "env-token"
    assert resolve_access(token="given", file=file).token == "given"


def test_a_token_file_that_is_open_to_others_is_refused(home):
    path = written(home / "a", "x")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"is open to others \(mode 0644\)"):
        resolve_access(file=ClientConfig(url="https://b", token_file=path))


def test_the_usual_files_client_section_is_used(home):
    written(home / ".config/orbit/orbit.toml", '[client]\nurl = "https://usual/"\n')

    assert resolve_access().url == "https://usual"
