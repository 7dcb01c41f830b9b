"""Our HTML pages: Jinja2 templates, escaped by default, style and script inside, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from proxy.pages.brand import Brand

_FOLDER = Path(__file__).parent / "templates"
_environment = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals["brand"] = Brand()


def show(brand: Brand) -> None:
    """Let every page from now on carry that name and logo; called once, at start."""
    _environment.globals["brand"] = brand


class Page:
    """A template and the Content-Security-Policy that lets its own style and script work, and no other.

    Style and script are named in the policy by their SHA-256 (W3C CSP 3, 2.3.1), so that a page needs no
    nonce and what slips into it does not run. `forms`: the page has forms, which go to ourselves.
    """

    def __init__(self, template: str, script: str | None = None, *, forms: bool = False) -> None:
        style = (_FOLDER / "page.css").read_text("utf-8")
        policy = [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'self'" if forms else "form-action 'none'",
            "frame-ancestors 'none'",
        ]
        inside = {"style": Markup(style)}  # noqa: S704 - files of ours
        if script is not None:
            text = (_FOLDER / script).read_text("utf-8")
            policy += [f"script-src '{_digest(text)}'", "connect-src 'self'"]
            inside["script"] = Markup(text)  # noqa: S704
        self.policy = "; ".join(policy)
        self._template = _environment.get_template(template, globals=inside)

    def policy_with(self, form_origin: str | None) -> str:
        """The policy where a form's answer may redirect to that origin, too.

        Chromium holds `form-action` against the redirect that answers a form, and signing out leads to
        the provider.
        """
        if form_origin is None:
            return self.policy
        return self.policy.replace("form-action 'self'", f"form-action 'self' {form_origin}")

    def render(self, **values: object) -> bytes:
        """The page in UTF-8. Raises jinja2.UndefinedError for a value that the template wants and lacks."""
        return self._template.render(values).encode("utf-8", "replace")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
