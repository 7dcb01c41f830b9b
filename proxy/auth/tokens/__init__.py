"""Tokens of ours: what programs send in place of a password, of people and of service accounts."""
