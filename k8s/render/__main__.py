"""`scripts/render ENV`: an environment's manifests from its overlay, settings and secrets, or why not."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from given import read_given
from manifests import Manifests
from refusals import problems_of

from proxy.errors import UserError

ROOT = Path(__file__).parents[2]


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """What `kustomize build` makes of it. Raises UserError with what it says."""
    program = shutil.which("kustomize")
    command = [program, "build"] if program else [shutil.which("kubectl") or "", "kustomize"]
    if not command[0]:
        raise UserError("neither kustomize nor kubectl is installed: one of them puts the overlays together")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{folder}: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def render(args: argparse.Namespace) -> str:
    """The whole text. Raises UserError with a line for each thing that is wrong; nothing is written then."""
    overlays = args.k8s / "overlays"
    folder = overlays / args.environment
    if not (folder / "kustomization.yaml").is_file():
        known = ", ".join(sorted(path.parent.name for path in overlays.glob("*/kustomization.yaml")))
        raise UserError(
            f"there is no {folder}/kustomization.yaml (there is: {known}): copy the overlay that is nearest"
        )
    given = read_given(args.environment, args.settings, args.env_file)
    manifests = Manifests(kustomized(folder))
    problems = [*given.problems, *manifests.take(given)]
    if args.image:
        problems += manifests.set_image(args.image)
    problems += problems_of(manifests, given, set(args.existing_secret))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    manifests.finish(with_secrets=args.with_secrets)
    return yaml.safe_dump_all(manifests.documents, sort_keys=False, width=110, allow_unicode=True)


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
    args.settings = args.settings or ROOT / "config" / f"settings.{args.environment}.yaml"
    args.env_file = args.env_file or ROOT / "config" / f"{args.environment}.env"
    try:
        text = render(args)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"render: {line}", file=sys.stderr)
        sys.exit(1)
    if args.output:
        beside = args.output.with_name(args.output.name + ".new")
        beside.touch(mode=0o600)
        beside.write_text(text)
        beside.rename(args.output)
    else:
        sys.stdout.write(text)


main()
