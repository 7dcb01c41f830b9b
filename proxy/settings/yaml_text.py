"""YAML read as text: every scalar is what stands there, nothing is set twice, and no error quotes a value."""

from __future__ import annotations

from typing import Any

import yaml


class Malformed(ValueError):
    """A document that is not read; `name` is the key that it is about, or empty."""

    def __init__(self, what: str, name: str = "") -> None:
        super().__init__(what)
        self.name = name


def document(text: str) -> Any:
    """What a YAML document holds: mappings, lists, texts and None. Raises Malformed."""
    try:
        # A safe loader all the same: it inherits SafeLoader and only forgets how to guess types.
        return yaml.load(text, Loader=_TextLoader)  # noqa: S506
    except _DuplicateKeyError as error:
        raise Malformed(f"set twice, the second time in line {error.line}", error.name) from None
    except yaml.MarkedYAMLError as error:
        # Neither PyYAML's message nor its excerpt is shown: both may quote a password.
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1} " if mark else ""
        raise Malformed(
            f"{where}is not YAML; a value with special characters needs 'single quotes'"
        ) from None
    except (yaml.YAMLError, RecursionError):
        raise Malformed("is not YAML") from None


class _DuplicateKeyError(Exception):
    def __init__(self, name: str, line: int) -> None:
        super().__init__(name)
        self.name = name
        self.line = line


class _TextLoader(yaml.SafeLoader):
    """Every scalar is the text that stands there: a password of digits stays one, ``off`` stays off."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _DuplicateKeyError(key.value, key.start_mark.line + 1)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


# Nulls and merge keys alone keep their meaning.
_TextLoader.yaml_implicit_resolvers = {
    first: [entry for entry in resolvers if entry[0].rpartition(":")[2] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
