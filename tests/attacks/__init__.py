"""Attacks, each a test named after it."""
