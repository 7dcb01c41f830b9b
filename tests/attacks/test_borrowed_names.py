"""Somebody takes a program's name, or a program a person's account: at a refresh, or by a shared issuer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import token_site
from session_site import ADA, Browser, ObedientProvider, is_refused
from session_site import Replica as SessionReplica

from proxy.identity import Identity, Role


@pytest.mark.parametrize("name", ["service:ci", "client:nightly", "mlflow-jobs", "metrics"])
def test_a_name_of_programs_taken_while_signed_in_is_nobodys_in_tokens_either(
    tmp_path: Path, name: str
) -> None:
    """Where PROXY_OAUTH_USER_CLAIM names a claim that people change themselves."""
    given = token_site.settings(tmp_path, session_refresh=1.0)
    provider = ObedientProvider()
    provider.claims = replace(ADA, user=name)

    async def attack() -> None:
        sessions, tokens = SessionReplica(given, provider), token_site.Replica(given)
        try:
            browser = Browser()
            await browser.sign_in(sessions)
            secret, _ = await tokens.make(token_site.ADA_SIGNED_IN)
            await asyncio.sleep(1.0)
            assert is_refused(await browser.ask(sessions))
            assert len(provider.asked) == 1
            assert (await tokens.who(secret)).user == ADA.user
        finally:
            sessions.store.close()
            tokens.store.close()

    asyncio.run(attack())


def test_a_program_of_a_further_issuer_manages_no_tokens_where_people_sign_in_at_the_same_host(
    tmp_path: Path,
) -> None:
    """Sign-in by PROXY_OAUTH_AUTHORIZE_URL has no issuer, and the host stands for it: a forge's may sign the
    tokens of its CI by that very name."""
    given = token_site.settings(
        tmp_path,
        oauth_issuer_url=None,
        oauth_authorize_url="https://forge.example.com/oauth/authorize",
        oauth_token_url="https://forge.example.com/oauth/token",
    )
    pipeline = Identity("ci:team/training", Role.ADMIN, "jwt", "https://forge.example.com", "7")
    with token_site.replicas(given) as (replica,):
        assert replica.tokens.may_manage(pipeline) is not None
        assert replica.tokens.may_manage(replace(pipeline, user="ada", method="session")) is None
