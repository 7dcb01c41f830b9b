"""Who gets in, and as what: addresses, groups, roles, and the claims that they come from."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.auth import admission
from proxy.auth.oidc import claims as reading
from proxy.auth.oidc.claims import Claims, claims_of
from proxy.identity import Role
from proxy.settings import Settings

ISSUER = "https://login.example.com/realms/team"


def person(**more: Any) -> Claims:
    usual: dict[str, Any] = {"email": "ada@example.com", "email_verified": True, "groups": ["ml"]}
    return claims_of(usual | more, issuer=ISSUER, subject="s-1", groups_claim="groups", user_claim=None)


def settings(**more: Any) -> Settings:
    return Settings(oauth_issuer_url=ISSUER, oauth_client_id="mlflow", **more)


def test_everybody_that_a_private_provider_knows_gets_in_where_nobody_is_named() -> None:
    assert admission.admitted(person(), settings()) is None
    assert admission.admitted(person(email=None, groups=[]), settings()) is None


@pytest.mark.parametrize(
    "issuer", ["https://accounts.google.com", "https://github.com", "https://gitlab.com"]
)
def test_nobody_at_a_public_provider_gets_in_where_nobody_is_named(issuer: str) -> None:
    claims = Claims(issuer, "s", "ada@example.com", True, "Ada", ("ml",))
    assert admission.admitted(claims, settings()) is not None
    assert admission.role(claims, settings(default_role=Role.ADMIN)) is None


def test_an_address_of_a_named_domain_gets_in() -> None:
    named = settings(allowed_email_domains=("example.com",))
    assert admission.admitted(person(), named) is None
    assert admission.admitted(person(email="ADA@EXAMPLE.COM"), named) is None


def test_an_address_named_in_full_gets_in_beside_a_domain() -> None:
    named = settings(allowed_email_domains=("example.com",), allowed_emails=("guest@example.org",))
    assert admission.admitted(person(email="guest@example.org"), named) is None
    assert admission.admitted(person(email="other@example.org"), named) is not None


def test_where_addresses_and_groups_are_named_both_have_to_match() -> None:
    named = settings(allowed_email_domains=("example.com",), allowed_groups=("ml",))
    assert admission.admitted(person(), named) is None
    assert admission.admitted(person(groups=["other"]), named) is not None
    assert admission.admitted(person(email="ada@example.org"), named) is not None


@pytest.mark.parametrize("verified", [False, None, "false", "", "yes", "True", 1, 0, [], [True], {}])
def test_an_unverified_address_counts_for_nothing(verified: Any) -> None:
    for named in (
        settings(allowed_email_domains=("example.com",)),
        settings(allowed_emails=("ada@example.com",)),
    ):
        claims = person(email_verified=verified)
        assert admission.admitted(claims, named) is not None
        assert claims.user == "s-1"  # nor is it anybody's name here


@pytest.mark.parametrize(
    "email",
    [
        "ada@evil.example@example.com",
        "ada@example.com@evil.example",
        '"ada@evil.example"@example.com',
        "ada@@example.com",
        "@example.com",
        "ada@",
        "example.com",
        "ada@example.com ",
        " ada@example.com",
        "ada@example.com\n",
        "ada@example.com\x00",
        "ada@example.com,ada@evil.example",
        "ada@example.com;x",
        "<ada@example.com>",
        "Ada <ada@example.com>",
        "ada@example.com(comment)",
        "ada(@example.com",
        "ada @example.com",
        "ada@[example.com]",
        "ada@example.com.",
        "ada@.example.com",
        "ada@example..com",
        "ada@evilexample.com",
        "ada@example.com.evil.example",
        "ada@sub.example.com",
        "ada@example.co",
        "ada@example.comm",
        "ada@example-com",
        "ada@ex\u0430mple.com",
        "ada@example\u3002com",
        "ada@example.c\u00f6m",
        "ada@e\u212aample.com",
        "\u0430da@example.com",
        "ada@xn--exmple-4nf.com",
        "a" * 65 + "@example.com",
        "ada@" + "a" * 250 + ".com",
        "",
        None,
        7,
        ["ada@example.com"],
        {"value": "ada@example.com"},
    ],
)
def test_several_at_signs_and_look_alike_domains_do_not_get_in(email: Any) -> None:
    claims = person(email=email)
    assert admission.admitted(claims, settings(allowed_email_domains=("example.com",))) is not None
    assert admission.admitted(claims, settings(allowed_emails=("ada@example.com",))) is not None


def test_letters_that_turn_into_others_when_lowered_are_not_them() -> None:
    named = settings(allowed_email_domains=("kelvin.example",))
    assert admission.admitted(person(email="ada@\u212aelvin.example"), named) is not None


def test_an_address_and_its_verification_are_taken_from_one_source() -> None:
    token = {"email": "root@example.com"}
    userinfo = {"email": "mallory@evil.example", "email_verified": True}
    assert reading.merged(token, userinfo)["email_verified"] is None
    assert reading.merged({}, userinfo)["email_verified"] is True
    assert reading.merged({"email_verified": True}, {"email": "root@example.com"})["email_verified"] is None
    assert (
        reading.merged(token, {"email": "root@example.com", "email_verified": True})["email_verified"] is True
    )
    refused = token | {"email_verified": False}
    assert (
        reading.merged(refused, {"email": "root@example.com", "email_verified": True})["email_verified"]
        is False
    )


def test_entra_ids_own_word_for_a_verified_domain_counts_for_entra_id_alone() -> None:
    entra = "https://login.microsoftonline.com/7b1c5cbd-0000-4000-8000-000000000000/v2.0"
    for issuer, verified in (
        (entra, True),
        (ISSUER, False),
        ("https://login.microsoftonline.com.evil.example/", False),
    ):
        claims = claims_of(
            {"email": "ada@example.com", "xms_edov": True},
            issuer=issuer,
            subject="s",
            groups_claim="groups",
            user_claim=None,
        )
        assert claims.email_verified is verified


def test_group_names_are_compared_exactly() -> None:
    named = settings(allowed_groups=("ml",), admin_groups=("/ml/Admins",))
    for groups in (["ML"], ["ml "], ["/ml"], ["ml-admins"], ["m"], "mlx", [["ml"]], {"ml": True}, None, 7):
        assert admission.admitted(person(groups=groups), named) is not None
    assert admission.admitted(person(groups=["x", "ml"]), named) is None
    assert admission.admitted(person(groups="ml"), named) is None
    assert admission.role_of(("/ml/admins",), named) is Role.NONE


def test_the_highest_role_of_all_groups_counts() -> None:
    named = settings(viewer_groups=("staff",), editor_groups=("ml",), admin_groups=("ops", "root"))
    assert admission.role_of(("staff",), named) is Role.VIEWER
    assert admission.role_of(("staff", "ml"), named) is Role.EDITOR
    assert admission.role_of(("root", "staff"), named) is Role.ADMIN
    assert admission.role_of(("other",), named) is Role.NONE
    assert admission.role_of((), named) is Role.NONE


def test_the_default_role_is_none_unless_set_and_no_group_lowers_it() -> None:
    assert admission.role_of(("ml",), settings()) is Role.NONE
    assert admission.role(person(), settings()) is None
    assert admission.role_of((), settings(default_role=Role.VIEWER)) is Role.VIEWER
    assert admission.role_of(("v",), settings(default_role=Role.EDITOR, viewer_groups=("v",))) is Role.EDITOR


@pytest.mark.parametrize(
    ("raw", "path", "groups"),
    [
        ({"groups": ["a", "b", "a"]}, "groups", ("a", "b")),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ("a",)),
        ({"resource_access": {"my.client": {"roles": ["a"]}}}, "resource_access.my.client.roles", ("a",)),
        ({"https://example.com/groups": ["a"]}, "https://example.com/groups", ("a",)),
        ({"a.b": ["whole"], "a": {"b": ["inner"]}}, "a.b", ("whole",)),
        ({"a": {"b": {"c": {"d": {"e": ["deep"]}}}}}, "a.b.c.d.e", ("deep",)),
        ({"a": ["list"]}, "a.b", ()),
        ({"a": {"b": None}}, "a.b", ()),
        ({}, "groups", ()),
        ({"groups": ["a", 7, None, "", ["b"], {"c": 1}]}, "groups", ("a",)),
    ],
)
def test_groups_are_found_at_any_depth(raw: dict[str, Any], path: str, groups: tuple[str, ...]) -> None:
    found = claims_of(raw, issuer=ISSUER, subject="s", groups_claim=path, user_claim=None)
    assert found.groups == groups


def test_the_users_name_is_the_claim_that_is_set_and_nothing_in_its_place() -> None:
    def named(raw: dict[str, Any]) -> str:
        return claims_of(raw, issuer=ISSUER, subject="s", groups_claim="g", user_claim="login").user

    assert named({"login": "ada", "email": "x@example.com", "email_verified": True}) == "ada"
    assert named({"login": 7}) == "7"
    for value in (None, "", True, [], {}, "a\nb", "a\u202eb", "x" * 300):
        with pytest.raises(ValueError, match="login"):
            named({"login": value, "email": "x@example.com", "email_verified": True})
    with pytest.raises(ValueError, match="login"):
        named({})


def test_the_verified_address_is_the_users_name_in_one_spelling() -> None:
    assert person(email="Ada@Example.COM").user == "ada@example.com"
