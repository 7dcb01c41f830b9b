"""A process for the guard to end, told by its arguments how to behave.

    python unruly.py exit CODE [AND-LEAVE-A-DAEMON] | obey | stubborn | brood

``brood`` has children and grandchildren in sessions of their own, all stubborn, some orphaned at once, and
one that goes on forking.
"""

import os
import signal
import sys
import time


def alone(behave: str) -> None:
    """A daemon: its parent is gone when this returns."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stay(behave)
        os._exit(0)
    os.wait()


def deafen(behave: str) -> None:
    """Take the signals as this kind does."""
    if behave != "obey":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def stay(behave: str) -> None:
    deafen(behave)
    while True:
        if behave == "fork":
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            time.sleep(0.02)
        else:
            time.sleep(600)


behave = sys.argv[1]
if behave in ("obey", "stubborn"):
    deafen(behave)  # before anybody is told that we are here
print("here", flush=True)
if behave == "exit":
    if len(sys.argv) > 3:
        alone("stubborn")
    sys.exit(int(sys.argv[2]))
if behave == "brood":
    alone("stubborn")
    alone("fork")
    if os.fork() == 0:
        alone("stubborn")
        stay("stubborn")
stay(behave)
