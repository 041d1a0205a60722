import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core.errors import InvalidName
from orbit_core.models import (
    RESERVED_NAMES,
    EndpointInfo,
    Principal,
    Role,
    Topology,
    check_name,
)


@pytest.mark.parametrize("name", ["a", "9", "node-7.site_b", "A" * 64, "a.b.c"])
def test_a_safe_name_is_returned_as_it_is(name):
    assert check_name(name, "thing") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a..b", ".hidden", "-x", "_x", "a/b", "a b", "a\n", "a\x00", "ä", "A" * 65,
     "a%2f", None, 7, b"a", ["a"]],
    ids=repr,
)  # fmt: skip
def test_an_unsafe_name_is_refused_with_the_rule(name):
    with pytest.raises(InvalidName, match=r"^thing .* is not a valid name: use 1 to 64 of") as told:
        check_name(name, "thing")

    assert (told.value.status, told.value.code) == (400, "invalid_name")


def test_a_huge_name_is_not_repeated_in_full():
    with pytest.raises(InvalidName) as told:
        check_name("x" * 100_000, "thing")

    assert len(told.value.detail) < 300


@pytest.mark.parametrize("name", ["bridge", "Bridge", "TOKENS", "openapi.json"])
def test_a_reserved_name_is_refused_in_any_case(name):
    with pytest.raises(InvalidName) as told:
        check_name(name, "endpoint name", reserved=RESERVED_NAMES)

    assert told.value.detail == (f"endpoint name {name!r} is a reserved word: choose another name")


@given(st.text(max_size=80))
def test_an_accepted_name_is_one_path_segment(text):
    try:
        name = check_name(text, "thing")
    except InvalidName:
        return
    assert name == text
    assert name.isascii()
    assert not set(name) & set("/\\%?#: \n\x00")
    assert name not in {".", ".."}


@pytest.mark.parametrize(
    ("principal", "owner", "allowed"),
    [
        pytest.param(Principal("alice", Role.CLIENT), "alice", True, id="own"),
        pytest.param(Principal("alice", Role.CLIENT), "bob", False, id="another's"),
        pytest.param(Principal("alice", Role.CLIENT), None, True, id="nobody's"),
        pytest.param(Principal("root", Role.ADMIN), "bob", True, id="admin"),
        pytest.param(
            Principal("alice", Role.ENDPOINT, endpoint="n1"), "alice", False, id="its owner's"
        ),
        pytest.param(
            Principal("alice", Role.ENDPOINT, endpoint="n1"), "endpoint:n1", True, id="endpoint's"
        ),
        pytest.param(
            Principal("alice", Role.CLIENT), "endpoint:n1", False, id="own endpoint's session"
        ),
    ],
)
def test_ownership_decides_what_a_principal_may_use(principal, owner, allowed):
    assert principal.may_use(owner) is allowed


def test_a_topology_reads_like_a_mapping_of_names():
    node = EndpointInfo("login")
    topology = Topology({"n1": node})

    assert list(topology) == ["n1"]
    assert len(topology) == 1
    assert topology["n1"] is node
    assert topology.get("n2") is None
    assert "n1" in topology
