"""The settings written out: mlflow.env.example, config/settings.example.yaml, docs/settings.md.

``python -m proxy.settings.reference --write`` brings the three up to date; without the option it names
those that are not and exits 1. Of docs/settings.md only what stands between the markers
``<!-- NAME: generated -->`` and ``<!-- NAME: end -->`` is written.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from proxy.settings.fields import GROUPS
from proxy.settings.names import FILE_PASSTHROUGH, REFUSED_OPTIONS, REFUSED_VARIABLES
from proxy.settings.variables import KNOWN, Variable

_ROOT = Path(__file__).resolve().parents[2]
_COMMAND = "python -m proxy.settings.reference --write"

_ENV_HEAD = f"""\
# Every setting of mlflow-proxy. Copy this file to mlflow.env and take the # from the lines you change.
# Written by `{_COMMAND}`: change the code, not this file.
#
# An empty value means unset. NAME_FILE=/path in place of NAME=value reads the value from a file.
# A value that holds # or spaces needs quotes; within 'single' ones only \\' and \\\\ mean anything else,
# and a $ is a $ everywhere. Stronger than this file: files named by NAME_FILE, the environment and
# the command line. `mlflow-proxy check` prints what is in force and where it was set.
# Other variables (AWS_REGION, HTTPS_PROXY, MLFLOW_...) may stand here too: MLflow gets them.
"""
_YAML_HEAD = f"""\
# Every setting of mlflow-proxy. Copy this file to config/settings.yaml and take the # from the lines
# you change; config/settings.<env>.yaml, chosen by PROXY_ENV, is merged over it.
# Written by `{_COMMAND}`: change the code, not this file.
#
# Names may be in small letters. mlflow.env and the environment are stronger than these files, and better
# places for secrets.
mlflow:
"""


def env_example() -> str:
    """mlflow.env.example: every variable with its meaning, commented out, at its default."""
    lines = [_ENV_HEAD]
    for group in GROUPS:
        lines.append(f"\n# ---- {group} ----\n")
        for variable in _of(group):
            lines += _comment(variable, "")
            lines.append(f"#{variable.name}={variable.default}\n")
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def yaml_example() -> str:
    """config/settings.example.yaml: the same in YAML."""
    lines = [_YAML_HEAD.rstrip()]
    for group in GROUPS:
        lines.append(f"  # ---- {group} ----\n")
        for variable in _of(group):
            lines += _comment(variable, "  ")
            lines.append(f"  #{variable.name}: {variable.default}".rstrip() + "\n")
    return "\n".join(lines).rstrip() + "\n"


def tables() -> dict[str, str]:
    """The generated parts of docs/settings.md, by the name in their markers."""
    settings = []
    for group in GROUPS:
        settings.append(f"### {group}\n\n| Setting | Option | Default | Meaning |\n| --- | --- | --- | --- |")
        settings += [_row(variable) for variable in _of(group)]
        settings.append("")
    options: dict[str, list[str]] = {}
    for option, reason in REFUSED_OPTIONS.items():
        options.setdefault(reason, []).append(f"`{option}`")
    for name, reason in REFUSED_VARIABLES.items():
        options.setdefault(reason, []).append(f"`{name}`")
    refused = ["| Refused | Because |", "| --- | --- |"]
    refused += [f"| {', '.join(which)} | {reason} |" for reason, which in options.items()]
    return {
        "settings": "\n".join(settings).rstrip(),
        "refused": "\n".join(refused),
        "files": ", ".join(f"`{name}_FILE`" for name in sorted(FILE_PASSTHROUGH)) + ".",
    }


def markdown(text: str) -> str:
    """``text`` of docs/settings.md with its parts as they should be. Raises ValueError without a marker."""
    for name, table in tables().items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"docs/settings.md needs one pair of markers for {name!r}")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}"
    return text


def files(root: Path = _ROOT) -> dict[Path, str]:
    """Each file that is written from the code, with the text it should have."""
    docs = root / "docs" / "settings.md"
    return {
        root / "mlflow.env.example": env_example(),
        root / "config" / "settings.example.yaml": yaml_example(),
        docs: markdown(docs.read_text(encoding="utf-8")),
    }


def _of(group: str) -> list[Variable]:
    return [variable for variable in KNOWN.values() if variable.group == group]


def _comment(variable: Variable, indent: str) -> list[str]:
    text = variable.description
    if variable.default_note:
        text += f" Unless set: {variable.default_note}."
    if variable.example:
        text += f" Example: {variable.example}"
    return textwrap.wrap(
        text,
        100,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _row(variable: Variable) -> str:
    default = f"`{variable.default}`" if variable.default else variable.default_note
    meaning = variable.description + (f" Example: `{variable.example}`" if variable.example else "")
    meaning += " Secret." if variable.secret else ""
    option = f"`{variable.option}`" if variable.option else ""
    cells = (f"`{variable.name}`", option, default, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: list[str]) -> int:
    stale = [
        path
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if arguments not in ([], ["--write"]):
        print(f"usage: {_COMMAND}", file=sys.stderr)
        return 2
    for path, text in files().items():
        if path in stale and arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(_ROOT)} {'written' if arguments else 'is not what the code says'}")
    return 1 if stale and not arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
