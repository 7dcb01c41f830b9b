"""``mlflow server`` for benchmarks: becomes the program that BENCH_UPSTREAM names, a command as JSON.

``@SOCKET@`` in it, and in the file that BENCH_CONFIGURATION names, stands for the socket it is told.
"""

import json
import os
import shlex
import sys
from pathlib import Path

options = shlex.split(sys.argv[sys.argv.index("--uvicorn-opts") + 1])
socket = options[options.index("--uds") + 1]
if name := os.environ.get("BENCH_CONFIGURATION"):
    file = Path(name)
    file.write_text(file.read_text().replace("@SOCKET@", socket))
command = [part.replace("@SOCKET@", socket) for part in json.loads(os.environ["BENCH_UPSTREAM"])]
os.execvp(command[0], command)
