"""Backups: sets of all that the service keeps, made without stopping it, encrypted, checked, brought back."""
