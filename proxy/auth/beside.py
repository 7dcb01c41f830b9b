"""What the commands beside a running service have in common: its database, and columns of text."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from proxy.errors import UserError
from proxy.store import Connection, Store, StoreUnavailable

if TYPE_CHECKING:
    from proxy.settings import Settings

T = TypeVar("T")


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[Callable[[Callable[[Connection], T]], T]]:
    """What runs a query in the service's database. Raises UserError where there is none, or no answer."""
    if settings.database_url is None and not settings.data_dir.is_dir():
        raise UserError(
            f"there is no {settings.data_dir.absolute()} (PROXY_DATA_DIR): run this where the service runs, "
            "or name its data directory with --data-dir"
        )
    store = Store.open(settings)
    try:
        yield store.run_blocking
    except StoreUnavailable as error:
        raise UserError(f"PROXY_DATABASE_URL: the database does not answer: {error}") from None
    finally:
        store.close()


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of texts below each other, each column as wide as its widest text."""
    shown = [tuple(map(_one_line, line)) for line in lines]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in shown
    )


def when(seconds: float) -> str:
    """A moment in the operator's own time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _one_line(text: str) -> str:
    # Some of it is a stranger's text, and a terminal obeys control characters.
    return "".join(c if c.isprintable() else "?" for c in text)
