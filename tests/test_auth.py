import pytest

from orbit_core import _cookies, auth
from orbit_core._cookies import COOKIE, Cookies, digest
from orbit_core._store import open_store
from orbit_core.auth import (
    ANYBODY,
    FAILURE_WINDOW,
    FAILURES,
    Authenticator,
    Guesses,
    Tokens,
)
from orbit_core.errors import (
    BadRequest,
    Forbidden,
    InvalidName,
    StateUnavailable,
    TooManyRequests,
    Unauthorized,
    UnknownToken,
)
from orbit_core.models import Principal, Role

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

SOON = 1e-9
"""Seconds after which a token has expired before anybody can look."""


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path / "state") as found:
        yield found


@pytest.fixture
def tokens(store):
    return Tokens(store.space("tokens"))


@pytest.fixture
def authenticator(tokens):
    return Authenticator(tokens, enabled=True, cookie_ttl=60.0)


WRONG = "this token is not valid here: ask for a new one, or check which bridge this is"


def bearer(text):
    return [(b"authorization", f"Bearer {text}".encode("latin-1"))]


def cookie(value, *more):
    return [(b"cookie", f"a=b; {COOKIE}={value}".encode()), *more]


async def test_a_token_speaks_for_its_owner(tokens, authenticator):
    token, text = await tokens.create(Role.CLIENT, "alice")

    found = authenticator.principal(bearer(text), "1.2.3.4")

    assert found == Principal("alice", Role.CLIENT, token.id)
    assert (token.expires, token.endpoint) == (None, None)
    assert tokens.get(token.id) == token


async def test_tokens_are_read_back_from_disk_and_only_hashed(tmp_path):
    async with open_store(tmp_path) as store:
        made, text = await Tokens(store.space("t")).create(
            Role.ENDPOINT, "alice", expires=1000, endpoint="n1"
        )
    assert text.encode() not in (tmp_path / "state.sqlite3").read_bytes()
    async with open_store(tmp_path) as store:
        again = Tokens(store.space("t"))
        await again.load()
        assert again.find(text) == made
        assert again.list() == [made]


async def test_tokens_are_listed_oldest_first(tokens):
    made = [(await tokens.create(Role.CLIENT, name))[0] for name in ("c", "a", "b")]

    assert tokens.list() == made


@pytest.mark.parametrize(
    "wrong",
    [{"owner": "a/b"}, {"owner": ""}, {"endpoint": "../x"}, {"endpoint": "bridge"}],
    ids=str,
)
async def test_a_token_for_a_bad_name_is_refused(tokens, wrong):
    with pytest.raises(InvalidName):
        await tokens.create(**{"role": Role.ENDPOINT, "owner": "alice", **wrong})

    assert tokens.list() == []


@pytest.mark.parametrize("expires", [0, -1, float("nan"), float("inf")])
async def test_a_token_that_never_lives_is_refused(tokens, expires):
    with pytest.raises(BadRequest, match=r"^a token expires after a positive number of seconds"):
        await tokens.create(Role.CLIENT, "alice", expires=expires)


async def test_a_given_secret_replaces_the_token_it_was_of(tokens):
    ended = []
    tokens.on_end(ended.append)
    old, _ = await tokens.create(Role.CLIENT, "alice", text="given")
    new, _ = await tokens.create(Role.ADMIN, "root", text="given")

    assert tokens.find("given") == new
    assert tokens.list() == [new]
    assert ended == [old.id]


async def test_a_revoked_token_is_over_at_once_and_for_good(tmp_path):
    async with open_store(tmp_path) as store:
        tokens, ended = Tokens(store.space("t")), []
        tokens.on_end(ended.append)
        token, text = await tokens.create(Role.CLIENT, "alice")
        other, _ = await tokens.create(Role.CLIENT, "bob")
        await tokens.revoke(token.id)
        assert (tokens.find(text), tokens.get(token.id), ended) == (None, None, [token.id])
        again = Tokens(store.space("t"))
        await again.load()
        assert again.list() == [other]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tokens: tokens.revoke("t0"), id="revoked"),
        pytest.param(lambda tokens: tokens.limit("t0", 1.0), id="limited"),
    ],
)
async def test_a_token_that_does_not_exist_cannot_be_changed(tokens, change):
    await tokens.create(Role.CLIENT, "alice")
    with pytest.raises(UnknownToken) as told:
        await change(tokens)

    assert (told.value.status, told.value.code) == (404, "unknown_token")
    assert told.value.detail == "there is no token t0: orbit token list shows them"


async def test_an_expired_token_is_worth_nothing_and_swept(tokens, authenticator):
    ended = []
    tokens.on_end(ended.append)
    token, text = await tokens.create(Role.CLIENT, "alice", expires=SOON)
    kept, _ = await tokens.create(Role.CLIENT, "bob", expires=1000)

    assert (tokens.find(text), tokens.get(token.id)) == (None, None)
    await tokens.sweep()
    assert (tokens.list(), ended) == ([kept], [token.id])


async def test_a_sweep_that_cannot_write_leaves_the_token_to_the_next(tmp_path, caplog):
    async with open_store(tmp_path) as store:
        tokens = Tokens(store.space("t"))
        token, text = await tokens.create(Role.CLIENT, "alice", expires=SOON)
    await tokens.sweep()

    assert tokens.list() == [token]
    assert tokens.find(text) is None
    assert f"token {token.id} expired but stays on disk" in caplog.text


async def test_a_token_that_cannot_be_written_is_not_given(tmp_path):
    async with open_store(tmp_path) as store:
        tokens = Tokens(store.space("t"))
    with pytest.raises(StateUnavailable):
        await tokens.create(Role.CLIENT, "alice")

    assert tokens.list() == []


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        pytest.param([], "show a token: Authorization: Bearer …", id="nothing"),
        pytest.param(bearer("x"), WRONG, id="wrong"),
        pytest.param(bearer(""), WRONG, id="empty"),
        pytest.param([(b"authorization", b"Basic \xff\xfe")], WRONG, id="another scheme"),
        pytest.param([(b"authorization", b"\xff")], WRONG, id="rubbish"),
        pytest.param(cookie("x"), WRONG, id="wrong cookie"),
        pytest.param([(b"cookie", b"other=1")], WRONG, id="other cookie"),
        pytest.param([(b"cookie", b"\xff=;;=\xff")], WRONG, id="rubbish cookie"),
    ],
)
async def test_a_request_without_a_valid_token_is_401(authenticator, headers, detail):
    with pytest.raises(Unauthorized) as told:
        authenticator.principal(headers, "1.2.3.4")

    assert (told.value.status, told.value.code) == (401, "unauthorized")
    assert told.value.detail == detail


async def test_the_scheme_may_be_in_any_case(tokens, authenticator):
    _, text = await tokens.create(Role.CLIENT, "alice")

    headers = [(b"authorization", f"bEARER   {text}".encode())]

    assert authenticator.principal(headers, "").owner == "alice"


async def test_a_wrong_bearer_is_not_saved_by_a_right_cookie(tokens, authenticator):
    token, _ = await tokens.create(Role.CLIENT, "alice")
    value = authenticator.cookies.open(token.id)
    with pytest.raises(Unauthorized):
        authenticator.principal(bearer("x") + cookie(value), "")


async def test_without_authentication_everybody_administers(tokens):
    assert Authenticator(tokens, enabled=False, cookie_ttl=1).principal([], "") == ANYBODY


async def test_a_cookie_stands_for_its_token_until_it_is_closed(tokens, authenticator):
    token, _ = await tokens.create(Role.CLIENT, "alice")
    value = authenticator.cookies.open(token.id)

    assert authenticator.token(cookie(value), "") == token
    authenticator.cookies.close(authenticator.cookies.shown(cookie(value)))
    authenticator.cookies.close(authenticator.cookies.shown([]))
    with pytest.raises(Unauthorized):
        authenticator.token(cookie(value), "")


async def test_a_cookie_ends_with_its_token(tokens, authenticator):
    token, _ = await tokens.create(Role.CLIENT, "alice")
    value = authenticator.cookies.open(token.id)
    await tokens.revoke(token.id)

    with pytest.raises(Unauthorized):
        authenticator.token(cookie(value), "")


async def test_a_cookie_buys_no_other(tokens, authenticator):
    token, text = await tokens.create(Role.CLIENT, "alice")
    value = authenticator.cookies.open(token.id)

    assert authenticator.token(bearer(text) + cookie(value), "", by_cookie=False) == token
    with pytest.raises(Unauthorized) as told:
        authenticator.token(cookie(value), "", by_cookie=False)
    assert told.value.detail == "show a token: Authorization: Bearer …"


async def test_only_so_many_cookies_of_a_token_are_kept_and_none_after_it(
    tokens, authenticator, monkeypatch
):
    monkeypatch.setattr(_cookies, "COOKIES", 2)
    ended = []
    authenticator.cookies.on_end(ended.append)
    token, _ = await tokens.create(Role.CLIENT, "alice")
    other, _ = await tokens.create(Role.CLIENT, "bob")
    his = authenticator.cookies.open(other.id)
    first, *rest = [authenticator.cookies.open(token.id) for _ in range(3)]

    assert [authenticator.token(cookie(value), "") for value in rest] == [token, token]
    assert authenticator.token(cookie(his), "") == other
    with pytest.raises(Unauthorized):
        authenticator.token(cookie(first), "")
    await tokens.revoke(token.id)
    assert ended == [digest(value) for value in (first, *rest)]
    assert authenticator.cookies.shown(cookie(first)) == ""
    assert authenticator.token(cookie(his), "") == other


async def test_a_cookie_runs_out(tokens):
    authenticator = Authenticator(tokens, enabled=True, cookie_ttl=0.0)
    token, _ = await tokens.create(Role.CLIENT, "alice")
    value = authenticator.cookies.open(token.id)

    with pytest.raises(Unauthorized):
        authenticator.token(cookie(value), "")


async def test_a_cookie_that_ran_out_is_swept_and_told_of_once():
    cookies = Cookies(ttl=0.0)
    ended = []
    cookies.on_end(ended.append)
    value = cookies.open("t1")
    cookies.sweep()
    cookies.sweep()

    assert ended == [digest(value)]


async def test_a_living_cookie_is_not_swept():
    cookies = Cookies(ttl=60.0)
    value = cookies.open("t1")
    cookies.sweep()

    assert cookies.token_id(digest(value)) == "t1"


@pytest.mark.parametrize(
    ("authorization", "found"), [([], True), ([b""], True), ([b"Bearer x"], False)], ids=str
)
async def test_a_cookie_lets_in_who_shows_no_token(authenticator, authorization, found):
    value = authenticator.cookies.open("t1")
    shown = cookie(value, *((b"authorization", text) for text in authorization))

    assert authenticator.cookie(shown) == (digest(value) if found else "")


@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"https://b:1.evil"])
async def test_a_cookie_is_not_for_pages_of_another_origin(tokens, authenticator, origin):
    token, _ = await tokens.create(Role.CLIENT, "alice")
    value = authenticator.cookies.open(token.id)
    headers = cookie(value, (b"host", b"b:1"), (b"origin", origin))
    with pytest.raises(Forbidden) as told:
        authenticator.principal(headers, "")

    assert told.value.detail == "this cookie is not for pages of another origin"


async def test_a_cookie_is_for_pages_of_the_same_origin(tokens, authenticator):
    token, _ = await tokens.create(Role.CLIENT, "alice")
    value = authenticator.cookies.open(token.id)
    headers = cookie(value, (b"host", b"b:1"), (b"accept", b"*"), (b"origin", b"https://b:1"))

    assert authenticator.principal(headers, "").owner == "alice"


async def test_who_guesses_is_slowed_down_but_neighbours_are_not(tokens, authenticator):
    _, text = await tokens.create(Role.CLIENT, "alice")
    for _ in range(FAILURES):
        with pytest.raises(Unauthorized):
            authenticator.principal(bearer("x"), "1.2.3.4")
    with pytest.raises(TooManyRequests) as told:
        authenticator.principal(bearer("x"), "1.2.3.4")

    assert (told.value.status, told.value.code) == (429, "too_many_requests")
    assert 0 < told.value.retry_after <= FAILURE_WINDOW
    assert authenticator.principal(bearer(text), "1.2.3.4").owner == "alice"
    with pytest.raises(Unauthorized):
        authenticator.principal(bearer("x"), "5.6.7.8")


async def test_who_shows_nothing_does_not_guess(authenticator):
    for _ in range(3 * FAILURES):
        with pytest.raises(Unauthorized):
            authenticator.principal([], "1.2.3.4")


async def test_guesses_are_forgiven_after_the_window_and_logged_once(caplog):
    guesses, now = Guesses(), [0.0]
    guesses._clock = lambda: now[0]
    for _ in range(FAILURES):
        guesses.failed("a")
    for _ in range(3):
        with pytest.raises(TooManyRequests):
            guesses.failed("a")
    now[0] = FAILURE_WINDOW
    guesses.failed("a")

    assert caplog.text.count("a shows wrong tokens: answering 429") == 1


async def test_only_so_many_addresses_are_watched(monkeypatch):
    monkeypatch.setattr(auth, "ADDRESSES_WATCHED", 2)
    guesses = Guesses()
    for address in ("a", "b", "b", "c"):
        guesses.failed(address)

    assert list(guesses._failures) == ["b", "c"]
