"""Ids that no database takes (a NUL, half a pair): they name nothing, and crash nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
import token_site
from session_site import exchange_from
from token_site import BOB, ROOT

from proxy.exchange import Refused


@pytest.mark.parametrize("which", ["\0", "0123456789abcde\0", "\ud800", "x" * 9999])
def test_an_id_that_no_database_takes_is_not_found(tmp_path: Path, which: str) -> None:
    async def refused(asked: Awaitable[object]) -> None:
        with pytest.raises(Refused) as raised:
            await asked
        assert raised.value.status == 404

    async def attack(replica: token_site.Replica) -> None:
        tokens, here = replica.tokens, exchange_from()
        await refused(tokens.revoke(BOB, which, here))
        await refused(tokens.renew(BOB, which, overlap=None, exchange=here))
        await refused(replica.make(ROOT, service_account=which))
        await refused(tokens.remove_service_account(ROOT, which, here))

    with token_site.replicas(token_site.settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))
