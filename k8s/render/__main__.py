"""`scripts/render ENV`: an environment's manifests from its overlay, settings and secrets, or why not."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from given import read_given
from manifests import Manifests
from refusals import problems_of

from proxy import private_file
from proxy.errors import UserError

ROOT = Path(__file__).parents[2]
NEW_ENOUGH = re.compile(r"(^|kustomize/|Kustomize Version: )v([5-9]|\d\d)\.", re.MULTILINE)


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """What `kustomize build` makes of it. Raises UserError with what is wrong."""
    program = shutil.which("kustomize")
    command = [program, "build"] if program else [shutil.which("kubectl") or "", "kustomize"]
    if not command[0]:
        raise UserError("neither kustomize nor kubectl is installed: one of them puts the overlays together")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if done.returncode:
        if not NEW_ENOUGH.search(_version(command[0])):
            raise UserError(f"{command[0]} is too old for {folder}: kustomize 5 or kubectl 1.27 is needed")
        # Of a file that is not YAML it says neither the line nor always the name.
        said = re.sub(r'^E\d{4} .*?"command failed" err=', "", " ".join(done.stderr.split())).strip('<>" ')
        raise UserError("\n".join(_not_yaml(folder.parents[1])) or f"{folder}: {said}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _version(program: str) -> str:
    """Of kustomize: `v5.5.0`, or kubectl's `Kustomize Version: v5.5.0`, which those before 1.24 don't say."""
    options = ["--client"] if Path(program).name == "kubectl" else []
    return subprocess.run([program, "version", *options], capture_output=True, text=True).stdout


def _not_yaml(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.yaml")):
        try:
            list(yaml.safe_load_all(file.read_text()))
        except yaml.MarkedYAMLError as error:
            line = f"line {error.problem_mark.line + 1} " if error.problem_mark else ""
            yield f"{file}: {line}is not YAML ({error.problem})"
        except (yaml.YAMLError, UnicodeDecodeError):
            yield f"{file}: is not YAML"


def render(args: argparse.Namespace) -> str:
    """The whole text. Raises UserError with a line for each thing that is wrong; nothing is written then."""
    overlays = args.k8s / "overlays"
    folder = overlays / args.environment
    if folder.parent != overlays or not (folder / "kustomization.yaml").is_file():
        known = ", ".join(sorted(path.parent.name for path in overlays.glob("*/kustomization.yaml")))
        raise UserError(
            f"there is no {folder}/kustomization.yaml (there is: {known}): copy the overlay that is nearest"
        )
    given = read_given(args.environment, args.settings, args.env_file)
    if given.problems:  # what they would have said is missing, and would be told a second time
        raise UserError("\n".join(given.problems))
    manifests = Manifests(kustomized(folder))
    problems = manifests.take(given)
    if args.image is not None:
        problems += manifests.set_image(args.image)
    problems += problems_of(manifests, given, set(args.existing_secret))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    manifests.finish(with_secrets=args.with_secrets, existing=set(args.existing_secret))
    return yaml.safe_dump_all(manifests.documents, sort_keys=False, width=110, allow_unicode=True)


def put(path: Path, text: str) -> None:
    """At once, and for nobody else's eyes, as there may be Secrets in it. Raises UserError."""
    try:
        private_file.write(path, text.encode())
    except OSError as error:
        raise UserError(f"--output {path}: can't be written: {error.strerror}") from None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/render",
        description="Render the Kubernetes manifests of an environment from k8s/overlays/ENV, its settings "
        "and its secrets. Refuses, with a line for each, what is missing, misspelt, a placeholder, or would "
        "not do for several replicas.",
    )
    parser.add_argument("environment", metavar="ENV", help="a folder of k8s/overlays: production, local, …")
    parser.add_argument("--settings", type=Path, help="instead of config/settings.ENV.yaml")
    parser.add_argument("--env-file", type=Path, help="instead of config/ENV.env")
    parser.add_argument("--image", help="NAME:TAG or NAME@sha256:… for all of our containers")
    parser.add_argument(
        "--with-secrets",
        action="store_true",
        help="put the Secrets out too, which are else checked and left out",
    )
    parser.add_argument(
        "--existing-secret",
        metavar="NAME",
        action="append",
        default=[],
        help="a Secret that is made in the cluster by somebody else, with every key that is needed",
    )
    parser.add_argument("--output", type=Path, help="a file, instead of standard output")
    parser.add_argument("--k8s", type=Path, default=ROOT / "k8s", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        for option, path in (("--settings", args.settings), ("--env-file", args.env_file)):
            if path is not None and not path.exists():
                raise UserError(f"{option} {path}: there is no such file")
        args.settings = args.settings or ROOT / "config" / f"settings.{args.environment}.yaml"
        args.env_file = args.env_file or ROOT / "config" / f"{args.environment}.env"
        text = render(args)
        if args.output:
            put(args.output, text)
        else:
            sys.stdout.write(text)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"render: {line}", file=sys.stderr)
        sys.exit(1)


main()
