"""What goes wrong and can be told to a person: one line that says what is wrong and what to do."""


class Problem(Exception):
    """Printed by the commands, and raised through MLflow's client, as it is."""


class Away(Problem):
    """The other side gave no answer, or none that settles anything: trying again later may help."""


class Ended(Problem):
    """The identity provider renews nothing more: somebody has to sign in again."""


def plain(text: object) -> str:
    """Another's words for a terminal: no control characters, one line, at most 500 characters."""
    line = " ".join(str(text).split())
    return "".join(character for character in line if character.isprintable())[:500]
