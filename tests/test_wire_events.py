import json

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core._frames import EVENT_LIMIT, ProtocolError
from orbit_core._wire_events import encode_data, pack_event, unpack_event
from orbit_core.models import Notification

text = st.text()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | text
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
notifications = st.builds(
    Notification,
    endpoint=st.just("n1"),
    plugin=text,
    topic=text,
    data=json_values,
    session=st.none() | text,
    owner=st.none() | text,
    seq=st.integers(0, 2**63),
    time=st.floats(0, 1e12),
)


def deep(levels):
    found = 1
    for _ in range(levels):
        found = [found]
    return found


def fields(**changed):
    usual = {
        "plugin": "p", "topic": "t", "session": None, "owner": None, "seq": 1, "time": 1.5,
        "text": "{}",
    }  # fmt: skip
    return memoryview(msgpack.packb(list({**usual, **changed}.values())))


@given(notifications)
def test_a_notification_comes_back(sent):
    found = unpack_event(memoryview(pack_event(sent)), "n1")

    expected = attrs.asdict(sent, recurse=False)
    assert {name: getattr(found, name) for name in expected} == expected
    assert json.loads(found.text) == sent.data


def test_received_data_is_handed_on_as_it_arrived():
    found = unpack_event(fields(text='{ "a":1.0 }'), "n1")

    assert encode_data(found) == '{ "a":1.0 }'


def test_the_endpoint_is_the_one_that_the_bridge_knows():
    assert unpack_event(fields(), "n7").endpoint == "n7"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_protocol_errors(data):
    try:
        unpack_event(memoryview(data), "n1")
    except ProtocolError:
        return


TYPE = "a notification has fields of the wrong type"
LINE = "a notification's data runs over a line"
NUMBER = "a notification's number or time is none"
JSON = "a notification's data is not JSON"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(memoryview(msgpack.packb([1])), "a notification does not have 7 fields",
                     id="short"),
        pytest.param(memoryview(msgpack.packb({})), "a notification does not have 7 fields",
                     id="map"),
        pytest.param(fields(plugin=1), TYPE, id="plugin"),
        pytest.param(fields(topic=None), TYPE, id="topic"),
        pytest.param(fields(session=3), TYPE, id="session"),
        pytest.param(fields(owner=b"x"), TYPE, id="owner"),
        pytest.param(fields(seq=True), TYPE, id="seq"),
        pytest.param(fields(time=1), TYPE, id="time"),
        pytest.param(fields(text=None), TYPE, id="text"),
        pytest.param(fields(seq=-1), NUMBER, id="negative"),
        pytest.param(fields(time=float("nan")), NUMBER, id="nan"),
        pytest.param(fields(time=float("inf")), NUMBER, id="inf"),
        pytest.param(fields(text=" " * (EVENT_LIMIT + 1)), "a notification's data is too large",
                     id="large"),
        pytest.param(fields(text="{\n}"), LINE, id="newline"),
        pytest.param(fields(text="{\r}"), LINE, id="return"),
        pytest.param(fields(text='"\u2028 "'), LINE, id="line separator"),
        pytest.param(fields(text="{}\n"), LINE, id="newline at the end"),
        pytest.param(fields(text=""), JSON, id="empty"),
        pytest.param(fields(text="NaN"), JSON, id="not JSON"),
        pytest.param(fields(text="[" * 100_000), JSON, id="deep"),
    ],
)  # fmt: skip
def test_a_wrong_notification_is_refused(payload, reason):
    with pytest.raises(ProtocolError) as told:
        unpack_event(payload, "n1")

    assert str(told.value) == reason


@pytest.mark.parametrize(
    "data",
    [object(), float("nan"), {1, 2}, b"bytes", {(1, 2): 3}, deep(101), deep(100_000)],
    ids=["object", "nan", "set", "bytes", "key", "deep", "very deep"],
)
def test_data_that_is_not_json_is_refused_at_the_sender(data):
    with pytest.raises((TypeError, ValueError)):
        pack_event(Notification("n1", "p", "t", data))


def test_attrs_objects_travel_as_json_objects():
    inner = Notification("a", "b", "c", 1)

    found = unpack_event(memoryview(pack_event(Notification("n1", "p", "t", inner))), "n1")

    assert found.data["plugin"] == "b"


def test_what_may_be_sent_may_be_received():
    sent = Notification("n1", "p", "t", [[], *[deep(98)] * 3])

    assert unpack_event(memoryview(pack_event(sent)), "n1").data == sent.data


def test_data_over_the_limit_is_replaced_by_a_note():
    sent = Notification("n1", "p", "t", "x" * EVENT_LIMIT)

    found = unpack_event(memoryview(pack_event(sent)), "n1")

    assert found.data == {"too_large": True, "bytes": EVENT_LIMIT + 2, "limit": EVENT_LIMIT}


def test_data_of_the_limit_travels():
    sent = Notification("n1", "p", "t", "x" * (EVENT_LIMIT - 2))

    assert unpack_event(memoryview(pack_event(sent)), "n1").data == sent.data
