"""Alembic's migrations of our tables, one file a step."""
