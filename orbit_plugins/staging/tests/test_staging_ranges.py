import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_staging.errors import RangeNotSatisfiable
from orbit_staging.ranges import parse_range

SIZES = st.integers(0, 50)


@given(SIZES, st.integers(0, 60), st.integers(0, 60))
def test_a_closed_range_is_the_slice_that_it_names(size: int, first: int, last: int) -> None:
    content = bytes(range(size))
    field = f"bytes={first}-{last}"
    if last < first:
        assert parse_range(field, size) is None
    elif first >= size:
        with pytest.raises(RangeNotSatisfiable, match=f"the file has {size} bytes"):
            parse_range(field, size)
    else:
        start, stop = parse_range(field, size) or (0, 0)
        assert content[start:stop] == content[first : last + 1]


@given(st.integers(1, 50), st.integers(0, 60))
def test_an_open_range_goes_to_the_end(size: int, first: int) -> None:
    if first >= size:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(f"bytes={first}-", size)
    else:
        assert parse_range(f"bytes={first}-", size) == (first, size)


@given(st.integers(1, 50), st.integers(1, 60))
def test_a_suffix_is_the_last_bytes(size: int, count: int) -> None:
    assert parse_range(f"bytes=-{count}", size) == (max(0, size - count), size)


def test_the_last_none_of_a_file_cannot_be_sent() -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range("bytes=-0", 5)


@given(st.text(max_size=30).filter(lambda text: not re.match(r"bytes=\s*[0-9]*-[0-9]*", text)))
def test_what_is_no_single_range_is_ignored(field: str) -> None:
    assert parse_range(field, 5) is None


@pytest.mark.parametrize(
    "field", [None, "", "bytes=-", "bytes=0-1,3-4", "items=0-1", "bytes=٣-", "bytes=1-x"]
)
def test_all_is_sent_without_a_range_that_can_be_read(field: str | None) -> None:
    assert parse_range(field, 5) is None
