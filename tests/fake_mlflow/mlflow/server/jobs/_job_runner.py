"""A job runner that runs nothing, or, where the environment has FAKE_JOBS, one job of FAKE_JOB_SECONDS.

FAKE_JOBS is a file. Each runner, and each job that begins, ends or is ended, adds a line to it: what, the
pid, the Unix time, and for a runner the time up to which it takes jobs for another generation's. As MLflow
does, a consumer runs the job in a process of its own and says that it has failed where it ends by a signal.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

WRITE = """
import os, subprocess, sys, time
def write(*what):
    with open(os.environ["FAKE_JOBS"], "a") as file:
        print(*what, flush=True, file=file)
"""
CONSUMER = (
    WRITE
    + """
job = subprocess.Popen([sys.executable, "-c", JOB], start_new_session=True,
    env={**os.environ, "_MLFLOW_SERVER_JOB_ID": "j1", "_MLFLOW_SERVER_JOB_NAME": "sum"})
if job.wait() < 0:
    write("failed", job.pid, time.time())
time.sleep(600)
"""
)
JOB = (
    WRITE
    + """
write("begun", os.getpid(), time.time())
time.sleep(float(os.environ["FAKE_JOB_SECONDS"]))
write("done", os.getpid(), time.time())
"""
)

if log := os.environ.get("FAKE_JOBS"):
    with Path(log).open("a") as file:
        print("runner", os.getpid(), time.time(), os.environ.get("_MLFLOW_SERVER_UP_TIME"), file=file)
    subprocess.Popen([sys.executable, "-c", f"JOB = {JOB!r}\n{CONSUMER}", "huey.bin.huey_consumer"])
time.sleep(600)
