import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core._frames import (
    Kind,
    ProtocolError,
    RequestHead,
    ResponseHead,
    frame_header,
    message_header,
    pack_count,
    pack_joined,
    pack_request,
    pack_response,
    pack_value,
    split_message,
    unpack_count,
    unpack_map,
    unpack_request,
    unpack_response,
    unpack_value,
)

headers = st.lists(st.tuples(st.binary(), st.binary()), max_size=4)
frames = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(0, 2**64 - 1), st.binary(), st.booleans())
)
UNPACKERS = (unpack_request, unpack_response, unpack_count, unpack_value, unpack_map)


def view(value):
    return memoryview(msgpack.packb(value))


@given(st.integers(0, 2**64 - 1), frames)
def test_a_message_comes_apart_into_the_frames_it_was_made_of(received, sent):
    message = message_header(received) + b"".join(
        frame_header(kind, stream, len(payload), fin=fin) + payload
        for kind, stream, payload, fin in sent
    )

    acknowledged, found = split_message(message)

    assert acknowledged == received
    assert [(f.kind, f.stream, bytes(f.payload), f.fin) for f in found] == sent


def test_a_frame_of_an_unknown_kind_is_handed_on():
    _, found = split_message(message_header(0) + b"\xfa\x02" + bytes(12))

    assert [(frame.kind, frame.fin) for frame in found] == [(250, False)]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "a message is too short"),
        (bytes(7), "a message is too short"),
        (bytes(8 + 13), "a frame header is cut off"),
        (bytes(8) + frame_header(Kind.DATA, 1, 3) + b"ab", "a frame is longer than its message"),
    ],
)
def test_a_cut_off_message_is_refused(message, reason):
    with pytest.raises(ProtocolError, match=rf"^{reason}$"):
        list(split_message(message)[1])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_protocol_errors(data):
    try:
        payloads = [frame.payload for frame in split_message(data)[1]]
    except ProtocolError:
        payloads = [memoryview(data)]
    for payload in payloads:
        for unpack in UNPACKERS:
            try:
                unpack(payload)
            except ProtocolError:
                continue


@given(st.text(), st.binary(), headers, st.dictionaries(st.text(), st.integers(0, 9)), st.binary())
def test_a_request_head_comes_back(method, target, pairs, meta, body):
    sent = (method, target, pairs, meta)

    head, found = unpack_request(memoryview(pack_request(RequestHead(*sent), body)))

    assert (head.method, head.target, list(head.headers), head.meta) == sent
    assert found == body


@given(st.integers(100, 599), headers, st.binary())
def test_a_response_head_comes_back(status, pairs, body):
    head, found = unpack_response(memoryview(pack_response(ResponseHead(status, pairs), body)))

    assert (head.status, list(head.headers), found) == (status, pairs, body)


@given(st.integers(0, 2**32 - 1))
def test_a_credit_comes_back(count):
    assert unpack_count(memoryview(pack_count(count))) == count


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_credit_of_the_wrong_size_is_refused(size):
    with pytest.raises(ProtocolError, match=r"^a credit frame has the wrong size$"):
        unpack_count(memoryview(bytes(size)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "a payload does not have 5 fields"),
        (["GET", b"/", [], {}], "a payload does not have 5 fields"),
        (["GET", b"/", {}, {}, b""], "headers are no list"),
        (["GET", b"/", [[b"a"]], {}, b""], "a header is no pair of byte strings"),
        (["GET", b"/", [7], {}, b""], "a header is no pair of byte strings"),
        (["GET", b"/", [["a", b"b"]], {}, b""], "a header is no pair of byte strings"),
        (["GET", b"/", [[b"a", "b"]], {}, b""], "a header is no pair of byte strings"),
        ([1, b"/", [], {}, b""], "a request head has fields of the wrong type"),
        (["GET", "/", [], {}, b""], "a request head has fields of the wrong type"),
        (["GET", b"/", [], [], b""], "a request head has fields of the wrong type"),
        (["GET", b"/", [], {}, ""], "a request head has fields of the wrong type"),
    ],
    ids=repr,
)
def test_a_wrong_request_head_is_refused(fields, reason):
    with pytest.raises(ProtocolError, match=rf"^{reason}$"):
        unpack_request(view(fields))


@pytest.mark.parametrize(
    "fields",
    [[True, [], b""], ["200", [], b""], [99, [], b""], [600, [], b""], [200, [], None]],
    ids=repr,
)
def test_a_wrong_response_head_is_refused(fields):
    with pytest.raises(ProtocolError, match=r"^a response head has fields of the wrong type$"):
        unpack_response(view(fields))


@pytest.mark.parametrize("value", [[], 7, None, {b"a": 2}], ids=repr)
def test_a_payload_that_is_no_map_is_refused(value):
    with pytest.raises(ProtocolError, match=r"^a payload is no map$"):
        unpack_map(view(value))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\xa1\xff", b"\x81\x90\x01", b"\x81\x80\x01",
     b"\x91" * 5000, b"\xd6\xff"],
    ids=["empty", "unused code", "cut off", "more than one", "no text", "list as key", "map as key",
         "deep", "no timestamp"],
)  # fmt: skip
def test_a_payload_that_is_not_msgpack_is_refused(payload):
    with pytest.raises(ProtocolError, match=r"^a payload is not msgpack: "):
        unpack_value(memoryview(payload))


def test_joined_pairs_make_a_map():
    pairs = [pack_value("a") + pack_value(1), pack_value("b") + pack_value([2])]

    assert unpack_map(memoryview(pack_joined(pairs))) == {"a": 1, "b": (2,)}
