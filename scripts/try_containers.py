"""try_containers.py FOLDER IMAGE DATABASE-IMAGE: tries the images that scripts/test-containers has built."""

from __future__ import annotations

import sys
from pathlib import Path

from try_backup import try_backup
from try_image import Podman, look_at_configuration, look_at_files, run_it, say


def main() -> None:
    podman = Podman(Path(sys.argv[1]), sys.argv[2])
    look_at_configuration(podman)
    look_at_files(podman)
    run_it(podman)
    try_backup(podman, sys.argv[3])
    say("\nall of it holds")


if __name__ == "__main__":
    main()
