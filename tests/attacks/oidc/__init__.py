"""Attacks on signing in with an identity provider."""
