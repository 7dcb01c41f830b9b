"""Passwords and their hashes: which are taken, what one verification costs, which are too weak."""

from __future__ import annotations

import itertools
import re
import secrets
import string
import threading
from collections import Counter

import argon2
import bcrypt

ARGON2 = "argon2"
BCRYPT = "bcrypt"
BCRYPT_BYTES = 72
"""bcrypt reads no further; what a longer password adds would count for nothing."""
MINIMUM = 8
"""Characters of a password (NIST SP 800-63B)."""

verifications: Counter[str] = Counter()
"""How many hashes of each kind were computed for a check, since the process started."""

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_BASE64 = string.ascii_letters + string.digits + "+/"
_HIGHEST_BCRYPT_COST = 15  # 2 s of CPU
_HIGHEST_ARGON2_KIB = 1024 * 1024
_HIGHEST_ARGON2_PASSES = 32

_counting = threading.Lock()
_hasher = argon2.PasswordHasher()


class UnsupportedHash(ValueError):
    """A hash that is not taken; the text says what would be."""


def hash_password(password: str) -> str:
    """A new argon2id hash with the library's current parameters. Takes 30 to 200 ms of CPU."""
    return _hasher.hash(password.encode())


def check_hash(hash_: str) -> str:
    """The kind of a hash, ARGON2 or BCRYPT. Raises UnsupportedHash for all others, naming what it is."""
    if hash_.startswith("$argon2"):
        try:
            parameters = argon2.extract_parameters(hash_)
        except argon2.exceptions.InvalidHashError:
            raise UnsupportedHash("is a damaged argon2 hash") from None
        if (
            parameters.memory_cost > _HIGHEST_ARGON2_KIB
            or parameters.time_cost > _HIGHEST_ARGON2_PASSES
            or not re.search(r"\$[A-Za-z0-9+/]{16,}$", hash_)
        ):
            raise UnsupportedHash(
                f"is an argon2 hash that is damaged, or costs over 1 GiB or {_HIGHEST_ARGON2_PASSES} passes"
            )
        return ARGON2
    if found := _BCRYPT.fullmatch(hash_):
        if not 4 <= int(found[1]) <= _HIGHEST_BCRYPT_COST:
            raise UnsupportedHash(
                f"is a bcrypt hash of cost {found[1]}, at most {_HIGHEST_BCRYPT_COST} is taken"
            )
        return BCRYPT
    raise UnsupportedHash(f"is {_what(hash_)}, only argon2 and bcrypt hashes are taken")


def _what(hash_: str) -> str:
    if not hash_:
        return "empty"
    for start, what in (
        ("$apr1$", "an MD5 hash (apr1)"),
        ("$1$", "an MD5 hash"),
        ("{SHA}", "a SHA-1 hash"),
        ("{SSHA}", "a SHA-1 hash"),
        ("$5$", "a SHA-256 hash"),
        ("$6$", "a SHA-512 hash"),
        ("$2", "a damaged bcrypt hash"),
        ("{PLAIN}", "a plain password"),
    ):
        if hash_.startswith(start):
            return what
    return "neither (a crypt hash, or a plain password)"


def verify(hash_: str, password: bytes) -> bool:
    """Whether the password (UTF-8) is the one that was hashed. Blocks for the time of one hash, whatever
    the answer: call it in a thread. ``hash_`` has passed check_hash."""
    kind = ARGON2 if hash_.startswith("$argon2") else BCRYPT
    with _counting:
        verifications[kind] += 1
    if kind == ARGON2:
        try:
            return _hasher.verify(hash_, password)
        except argon2.exceptions.VerificationError:
            return False
    # The hash is computed for a password that is too long as well, so that it costs the same.
    return bcrypt.checkpw(password[:BCRYPT_BYTES], hash_.encode()) and len(password) <= BCRYPT_BYTES


def decoy(hash_: str) -> str:
    """A hash of the same kind and cost as ``hash_`` that no known password has."""
    if hash_.startswith("$argon2"):
        head, _, digest = hash_.rpartition("$")
        # The last character carries fewer bits than the others, so it is kept.
        return f"{head}${''.join(secrets.choice(_BASE64) for _ in digest[1:])}{digest[-1]}"
    body = "".join(secrets.choice("./" + string.ascii_letters + string.digits) for _ in range(30))
    return f"{hash_[:29]}{body}{hash_[-1]}"


# Compared without case, punctuation and digits at the end, so "Password-123!" is one of them.
_COMMON = frozenset(
    """
    a abc abcd access account adm admin adminadmin administrator adminpass adminpassword artifact
    asdf asdfgh asdfghjkl autumn aws azerty azure backend baseball batman bucket change changeit
    changeme changemenow changemeplease changethis computer correcthorsebatterystaple database
    dbpassword default demo dev devops docker dragon example examplepassword experiment flower
    foobar football freedom grafana guest hello helloworld hunter iloveyou insecure internet jenkins
    jordan jupyter keycloak kubernetes letmein letmeinplease localhost login loveme machinelearning
    master michael minio minioadmin minioadminminioadmin minioroot ml mlflow mlflowadmin
    mlflowmlflow mlflowpass mlflowpassword mlflowproxy mlflowsecret mlflowserver mlflowtracking
    mlflowuser mlops monkey mypassword mysecret mysecretpassword mysql newpassword nopassword oauth
    openai oracle p pass passpass passphrase passw passwd password passwordpassword passwort
    placeholder postgres postgresql princess prod production project proxy python qazwsx qwer qwert
    qwerty qwertyui qwertyuiop qwertz readonly redis replaceme root rootpassword rootroot s3cr3t
    sample samplepassword secret secretkey secretpassword secretsecret server service setme shadow
    signin somepassword spring staging starwars strongpassword summer sunshine superman
    superpassword supersecret superuser support sysadmin system team temp temporary test tester
    testing testpass testpassword testtest thepassword tobechanged todo toor tracking trustno
    uploader user username userpassword viewer welcome welcomehome whatever winner winter
    yourpassword yourpasswordhere yoursecret zxcvbn zxcvbnm
    """.split()  # noqa: SIM905 - easier to read and to add to than a list
)
_LEET = str.maketrans("013457@$!", "oleastasi")


def weakness(password: str, user: str) -> str | None:
    """Why a password that a person chose is too easily guessed, or None where it isn't.

    The rule is NIST SP 800-63B's: a minimum of 8 characters and a list of what is tried first; nothing
    about which kinds of characters. The text completes "the password …".
    """
    if not password:
        return "is empty"
    if len(password) < MINIMUM:
        return f"has fewer than {MINIMUM} characters"
    if len(set(password)) < 4:
        return "is made of fewer than 4 different characters"
    steps = {ord(after) - ord(before) for before, after in itertools.pairwise(password)}
    if len(steps) == 1:
        return "is a row of neighbouring characters"
    plain = _core(password)
    if not plain:
        return "is made of digits and punctuation alone"
    for form in (plain, _core(re.sub(r"[\d\W_]+$", "", password.lower()).translate(_LEET))):
        if form in _COMMON:
            return "is one of those that are tried first"
        if form == _core(user):
            return "is the user name"
    return None


def _core(text: str) -> str:
    letters = re.sub(r"[\W_]+", "", text.lower())
    return re.sub(r"\d+$", "", letters)
