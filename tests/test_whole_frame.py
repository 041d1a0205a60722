"""What is taken past the parser of `websockets`: nothing but what that would find as well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CLIENT
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from orbit_core._whole_frame import whole_message


def open_pair():
    """Return both sides of a WebSocket whose handshake is over."""
    client, server = ClientProtocol(parse_uri("ws://bridge/")), ServerProtocol()
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    (request,) = server.events_received()
    server.send_response(server.accept(request))
    client.receive_data(b"".join(server.data_to_send()))
    assert isinstance(client.events_received()[0], Response)
    return client, server


def frame(protocol, opcode=Opcode.BINARY, data=b"message", **flags):
    """Return a frame as the peer of ``protocol`` sends it."""
    return Frame(opcode, data, **flags).serialize(mask=protocol.side is not CLIENT)


SIDES = pytest.mark.parametrize("side", [0, 1], ids=["client", "server"])


@SIDES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535])
def test_a_message_in_one_frame_is_taken_again_and_again(side, size):
    protocol = open_pair()[side]
    sent = bytes(range(256)) * 256
    for _ in range(3):
        assert whole_message(protocol, frame(protocol, data=sent[:size])) == sent[:size]


@SIDES
def test_what_the_parser_has_read_is_no_hindrance(side):
    protocol = open_pair()[side]
    protocol.receive_data(frame(protocol, Opcode.PING) + frame(protocol, data=b"x" * 70_000))

    assert whole_message(protocol, frame(protocol)) == b"message"


@SIDES
@pytest.mark.parametrize(
    "kind",
    [
        {"opcode": Opcode.TEXT}, {"opcode": Opcode.PING}, {"opcode": Opcode.PONG},
        {"opcode": Opcode.CLOSE, "data": b"\x03\xe8"}, {"opcode": Opcode.CONT}, {"fin": False},
        {"data": b"x" * 65_536},
    ],
    ids=str,
)  # fmt: skip
def test_every_other_frame_is_for_the_parser(side, kind):
    protocol = open_pair()[side]
    assert whole_message(protocol, frame(protocol, **kind)) is None


@SIDES
@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
def test_a_frame_with_a_reserved_bit_is_for_the_parser(side, bit):
    protocol = open_pair()[side]
    first, *others = frame(protocol)
    assert whole_message(protocol, bytes([first | bit, *others])) is None


@SIDES
def test_a_frame_masked_as_it_must_not_be_is_for_the_parser(side):
    pair = open_pair()
    assert whole_message(pair[side], frame(pair[1 - side])) is None


@SIDES
def test_no_message_is_taken_within_a_frame_or_a_message(side):
    protocol = open_pair()[side]
    whole = frame(protocol, data=frame(protocol))
    for cut in range(1, len(whole)):
        protocol.receive_data(whole[:cut])
        assert whole_message(protocol, frame(protocol)) is None
        protocol.receive_data(whole[cut:])
        assert whole_message(protocol, frame(protocol)) == b"message"

    protocol.receive_data(frame(protocol, fin=False))
    assert whole_message(protocol, frame(protocol)) is None


@SIDES
@pytest.mark.parametrize("way", ["sent", "received", "failed", "lost"])
def test_nothing_is_taken_after_the_end(side, way):
    protocol = open_pair()[side]
    {
        "sent": protocol.send_close,
        "received": lambda: protocol.receive_data(frame(protocol, Opcode.CLOSE, b"\x03\xe8")),
        "failed": lambda: protocol.receive_data(b"\xff\xff"),
        "lost": protocol.receive_eof,
    }[way]()
    assert whole_message(protocol, frame(protocol)) is None


def test_nothing_is_taken_before_the_handshake_is_over():
    for protocol in (ClientProtocol(parse_uri("ws://bridge/")), ServerProtocol()):
        assert whole_message(protocol, frame(protocol)) is None


@SIDES
@pytest.mark.parametrize("name", ["current_size", "parser"])
def test_all_is_for_a_parser_that_calls_its_state_otherwise(side, name):
    protocol = open_pair()[side]
    vars(protocol)["renamed"] = vars(protocol).pop(name)
    assert whole_message(protocol, frame(protocol)) is None


@SIDES
@given(st.data())
def test_what_is_taken_is_what_the_parser_finds(side, data):
    protocol = open_pair()[side]
    whole = frame(protocol, data=data.draw(st.binary(max_size=300)))
    position, width = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 2))
    mixed = whole[:position] + data.draw(st.binary(max_size=3)) + whole[position + width :]

    taken = whole_message(protocol, mixed)

    protocol.receive_data(mixed)
    events = protocol.events_received()
    if taken is not None:
        assert [(event.opcode, bytes(event.data)) for event in events] == [(Opcode.BINARY, taken)]
        assert protocol.parser_exc is None
