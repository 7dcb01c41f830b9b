"""A token that is asked for in time and made too late: its body was sent so slowly that the session ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
import token_site
from session_site import Browser, exchange_from
from session_site import Replica as SessionReplica
from token_site import ADA_SIGNED_IN, DAY

from proxy.exchange import Refused
from proxy.identity import Role


def test_a_session_that_ended_while_the_body_came_leaves_nothing_behind(tmp_path: Path) -> None:
    given = token_site.settings(tmp_path)

    async def refused(asked: Awaitable[object]) -> None:
        with pytest.raises(Refused, match="session has ended") as raised:
            await asked
        assert raised.value.status == 403

    async def attack() -> None:
        sessions, replica = SessionReplica(given), token_site.Replica(given)
        try:
            cookie, thief = await Browser().sign_in(sessions), exchange_from("198.51.100.9")
            assert await sessions.sessions.verify(cookie, thief) == ADA_SIGNED_IN
            secret, token = await replica.make(ADA_SIGNED_IN, exchange=thief)
            assert thief.session is not None
            assert await sessions.sessions.end(thief.session, "ada@example.com")
            await refused(replica.make(ADA_SIGNED_IN, name="late", exchange=thief))
            await refused(replica.tokens.renew(ADA_SIGNED_IN, token.id, overlap=DAY, exchange=thief))
            await refused(replica.tokens.create_service_account(ADA_SIGNED_IN, "late", Role.ADMIN, "", thief))
            assert set(await replica.listed(ADA_SIGNED_IN)) == {token.id}
            assert await replica.tokens.list_service_accounts() == []
            assert (await replica.who(secret)).user == ADA_SIGNED_IN.user
        finally:
            sessions.store.close()
            replica.store.close()

    asyncio.run(attack())
