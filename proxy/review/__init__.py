"""The review of the logs: what in days of them is unusual, and why."""
