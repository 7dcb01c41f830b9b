"""A job runner that runs nothing."""

import time

time.sleep(600)
