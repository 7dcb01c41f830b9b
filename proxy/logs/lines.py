"""Text that nothing in it can break: one JSON object on one line, whatever the strings in it hold."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def json_line(fields: dict[str, Any]) -> bytes:
    """The fields as JSON in UTF-8 and a newline, safe to split at newlines and to show on a terminal.

    JSON itself escapes only quotes, backslashes and what is below U+0020. Here every other character
    that is not printable (DEL, the C1 controls with their terminal escapes, line and paragraph
    separators, marks that turn text round) is written as an escape too. A lone surrogate, which UTF-8
    can't carry, becomes U+FFFD; a value that JSON has no form for becomes its `str`.
    """
    try:
        line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        carried = {key: _carried(value) for key, value in fields.items()}
        line = orjson.dumps(carried, option=orjson.OPT_APPEND_NEWLINE)
    if line.isascii() and b"\x7f" not in line:
        return line
    return f"{printable(line[:-1].decode())}\n".encode()


def printable(text: str) -> str:
    r"""The text with everything that is not printable written as \uXXXX, and lone surrogates as U+FFFD."""
    if text.isprintable():
        return text
    text = _LONE_SURROGATE.sub("\ufffd", text)
    return "".join(
        character
        if character.isprintable()
        else "\\u007f"
        if character == "\x7f"
        else json.dumps(character)[1:-1]
        for character in text
    )


def cut(text: str, length: int) -> str:
    """The text, or its first `length` characters and three dots."""
    return text if len(text) <= length else text[:length] + "..."


def _carried(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    return _LONE_SURROGATE.sub("\ufffd", str(value))
