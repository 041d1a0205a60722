from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    consumes,
    initialize,
    invariant,
    rule,
)

from orbit_core import auth
from orbit_core.auth import Tokens
from orbit_core.errors import UnknownToken
from orbit_core.models import Role
from tests.machines import StoreMachine

SECRETS = st.sampled_from(["a given secret", "another one"])


@attrs.define
class Clock:
    now: float = 1_000_000.0

    def time(self) -> float:
        return self.now


@attrs.define
class Modelled:
    id: str
    owner: str
    role: Role
    expires: float | None


class TokensMachine(StoreMachine):
    """Compare the kept tokens with a small model, across sweeps and restarts."""

    texts = Bundle("texts")

    @initialize()
    def open(self) -> None:
        self.clock = Clock()
        self.real_time, auth.time = auth.time, self.clock
        self.model: dict[str, Modelled] = {}
        self.ended: list[str] = []
        self.open_store()
        self.restart()

    def teardown(self) -> None:
        auth.time = self.real_time
        super().teardown()

    @rule()
    def restart(self) -> None:
        self.tokens = Tokens(self.store.space("tokens"))
        self.tokens.on_end(self.ended.append)
        self.portal.call(self.tokens.load)

    def make(self, text: str | None, owner: str, role: Role, seconds: float | None) -> str:
        async def create() -> Any:
            return await self.tokens.create(role, owner, expires=seconds, text=text)

        token, text = self.portal.call(create)
        replaced = self.model.get(text)
        self.model[text] = Modelled(token.id, owner, role, token.expires)
        if replaced is not None:
            assert self.ended[-1] == replaced.id
        return text

    @rule(
        target=texts,
        text=st.none() | SECRETS,
        owner=st.sampled_from(["alice", "bob"]),
        role=st.sampled_from(list(Role)),
        seconds=st.none() | st.sampled_from([5.0, 50.0]),
    )
    def create(self, text: str | None, owner: str, role: Role, seconds: float | None) -> str:
        return self.make(text, owner, role, seconds)

    @rule(text=consumes(texts))
    def revoke(self, text: str) -> None:
        found = self.model.pop(text, None)
        if found is not None:
            self.portal.call(self.tokens.revoke, found.id)
            assert self.ended[-1] == found.id

    @rule()
    def revoke_what_is_not_there(self) -> None:
        with pytest.raises(UnknownToken, match=r"^there is no token t0: orbit token list shows"):
            self.portal.call(self.tokens.revoke, "t0")

    @rule(seconds=st.sampled_from([1.0, 5.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def sweep(self) -> None:
        self.portal.call(self.tokens.sweep)
        over = [text for text, found in self.model.items() if self.is_over(found)]
        assert set(self.ended) >= {self.model.pop(text).id for text in over}

    def is_over(self, found: Modelled) -> bool:
        return found.expires is not None and found.expires <= self.clock.now

    @invariant()
    def a_text_finds_its_token_until_it_is_over(self) -> None:
        for text, modelled in self.model.items():
            found = self.tokens.find(text)
            assert found == self.tokens.get(modelled.id)
            assert (found is None) == self.is_over(modelled)
            assert found is None or (found.owner, found.role) == (modelled.owner, modelled.role)

    @invariant()
    def the_list_has_every_token_once(self) -> None:
        listed = [token.id for token in self.tokens.list()]
        assert sorted(listed) == sorted(found.id for found in self.model.values())

    @invariant()
    def no_text_is_on_the_disk(self) -> None:
        file = (Path(self.directory.name) / "state.sqlite3").read_bytes()
        assert not any(text.encode() in file for text in self.model)


TestTokensMachine = TokensMachine.TestCase
TestTokensMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
