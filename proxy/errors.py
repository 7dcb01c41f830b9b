"""A person's mistake: raised anywhere at start or in a command, printed as it is, never with a stack."""


class UserError(Exception):
    """What is wrong, where it was set, and what would be right; one line a problem."""
