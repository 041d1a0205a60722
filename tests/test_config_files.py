from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args, get_origin

import attrs
import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from orbit_core._codec import to_data
from orbit_core.config import BridgeConfig, ClientConfig, EndpointConfig, FileConfig, read_file
from orbit_core.errors import ConfigError

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
settings_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)


def section(kind: type) -> st.SearchStrategy:
    """Return sections of a file: any of a configuration's fields with values that fit."""
    given_types = {
        str: texts,
        int: st.integers(0, 2**31),
        float: st.floats(0, 1e9),
        Path: st.from_regex(r"/[a-z]{1,5}", fullmatch=True),
    }
    fields = {}
    for field in attrs.fields(kind):
        plain = next(iter(getattr(field.type, "__args__", [field.type])), None)
        if get_origin(field.type) is list:
            fields[field.name] = st.lists(texts, max_size=2)
        elif get_origin(field.type) is Literal:
            fields[field.name] = st.sampled_from(get_args(field.type))
        else:
            fields[field.name] = given_types.get(plain, st.booleans())
    return st.fixed_dictionaries({}, optional=fields)


@given(
    bridge=section(BridgeConfig),
    endpoint=section(EndpointConfig),
    client=section(ClientConfig),
    plugin=st.dictionaries(texts, st.dictionaries(texts, settings_values, max_size=2), max_size=2),
)
def test_what_a_file_says_is_what_is_read(tmp_path_factory, bridge, endpoint, client, plugin):
    written = {"bridge": bridge, "endpoint": endpoint, "client": client, "plugin": plugin}
    path = tmp_path_factory.mktemp("config") / "orbit.toml"
    path.write_text(tomlkit.dumps(written), encoding="utf-8")

    found = to_data(read_file(path))

    assert found["plugin"] == plugin
    for name in ("bridge", "endpoint", "client"):
        assert {key: found[name][key] for key in written[name]} == written[name]


@given(raw=st.binary(max_size=60) | texts.map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("config") / "orbit.toml"
    path.write_bytes(raw)

    with suppress(ConfigError):
        assert isinstance(read_file(path), FileConfig)


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "orbit.toml"
    path.write_text("a = " + "[" * 10_000)

    with pytest.raises(ConfigError, match=r"is not TOML: "):
        read_file(path)
