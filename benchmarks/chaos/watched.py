"""mlflow-proxy with a thread that says how many asyncio tasks there are: python watched.py FILE serve …"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from pathlib import Path

from proxy.cli import main

EVERY = 5.0  # seconds


def count(file: Path) -> None:
    loop = None
    while loop is None:
        time.sleep(EVERY)
        # Found while young: later the service freezes what there is, and the collector shows it no more.
        tasks = (one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done())
        loop = next((task.get_loop() for task in tasks), None)
    while True:
        new = file.with_suffix(".new")
        new.write_text(str(len(asyncio.all_tasks(loop))))
        new.rename(file)
        time.sleep(EVERY)


if __name__ == "__main__":
    threading.Thread(target=count, args=(Path(sys.argv.pop(1)),), daemon=True).start()
    main()
