"""Who made a run or a logged model: what is written, what is refused, and that MLflow reads it as we do."""

from __future__ import annotations

import base64
import contextlib
import gc
import itertools
import json
import random
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from end_to_end.databases import MariaDB, database
from forwarding import FLASK, USER, Rig, rigged
from programs import needs

from proxy import bodies, verified_names
from proxy.exchange import Refused
from proxy.identity import Credential, Identity, Role
from proxy.operations import ROUTES, Access, Operation, operation_of
from proxy.verified_names import CLAIMED_TAG, CREDENTIAL_TAG, USER_TAG, checked, guarded

ALICE = Identity("alice", Role.EDITOR, "session")
HER_TOKEN = Identity("alice", Role.EDITOR, "token", credential=Credential("0123", "nightly training"))
RUN = "0123456789abcdef0123456789abcdef"
API = "/api/2.0/mlflow"
CREATE = ("POST", f"{API}/runs/create")
PROMPTLAB = ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run")
MODEL = ("POST", f"{API}/logged-models")
BATCH = ("POST", f"{API}/runs/log-batch")
SET = ("POST", f"{API}/runs/set-tag")
DELETE = ("POST", f"{API}/runs/delete-tag")
UPDATE = ("POST", f"{API}/runs/update")
MODEL_TAGS = ("PATCH", f"{API}/logged-models/m-1/tags")


def of(route: tuple[str, str]) -> Operation:
    operation = operation_of(*route)
    assert operation.name in verified_names.OPERATIONS
    return operation


def sent(route: tuple[str, str], what: Any, identity: Identity = ALICE) -> Any:
    """What is forwarded of that body."""
    body = what if isinstance(what, bytes) else json.dumps(what).encode()
    return json.loads(checked(of(route), route[1], body, identity))


def refused(route: tuple[str, str], what: Any, identity: Identity = ALICE) -> Refused:
    with pytest.raises(Refused) as caught:
        sent(route, what, identity)
    return caught.value


def tags(of: Any) -> dict[str, Any]:
    found = {tag["key"]: tag.get("value") for tag in of["tags"]}
    assert len(found) == len(of["tags"]), "a tag stands twice"
    return found


# What is written.


def test_a_run_is_made_in_the_verified_name() -> None:
    what = {"experiment_id": "0", "start_time": 1, "tags": [{"key": "mine", "value": "kept"}]}
    made = sent(CREATE, {**what, "user_id": "alice"})
    assert made["user_id"] == "alice"
    assert tags(made) == {USER_TAG: "alice", "mine": "kept"}
    assert made["experiment_id"] == "0"
    assert made["start_time"] == 1


def test_what_the_client_claimed_is_kept_in_a_tag_of_its_own() -> None:
    made = sent(CREATE, {"user_id": "mallory", "tags": [{"key": "mlflow.user", "value": "mallory"}]})
    assert made["user_id"] == "alice"
    assert tags(made) == {USER_TAG: "alice", CLAIMED_TAG: "mallory"}
    assert tags(sent(CREATE, {"userId": "mallory"})) == {USER_TAG: "alice", CLAIMED_TAG: "mallory"}
    assert "userId" not in sent(CREATE, {"userId": "mallory"})


@pytest.mark.parametrize("claim", ["alice", "unknown", "", None, 7, {}])
def test_what_claims_nothing_else_is_no_claim(claim: Any) -> None:
    made = sent(CREATE, {"user_id": claim, "tags": [{"key": "mlflow.user", "value": claim}]})
    assert made["user_id"] == "alice"
    assert tags(made) == {USER_TAG: "alice"}


def test_a_claim_is_short_and_printable() -> None:
    made = sent(CREATE, {"user_id": "m\0allo\x1b[31mry\n" + "x" * 10_000})
    claim = tags(made)[CLAIMED_TAG]
    assert claim.startswith("m\N{REPLACEMENT CHARACTER}allo")
    assert claim.isprintable()
    assert len(claim) == 256


def test_a_name_that_mlflows_column_does_not_hold_is_cut() -> None:
    made = sent(CREATE, {}, Identity("a" * 300, Role.EDITOR, "jwt"))
    assert made["user_id"] == "a" * 256


def test_the_credentials_name_is_written_where_there_is_one() -> None:
    assert tags(sent(CREATE, {}, HER_TOKEN))[CREDENTIAL_TAG] == "nightly training"
    assert tags(sent(MODEL, {}, HER_TOKEN))[CREDENTIAL_TAG] == "nightly training"
    nameless = Identity("alice", Role.EDITOR, "jwt", credential=Credential("0123", ""))
    for identity in (ALICE, nameless):
        assert CREDENTIAL_TAG not in tags(sent(CREATE, {}, identity))


def test_a_name_that_no_database_takes_is_made_one_that_it_does() -> None:
    odd = Identity("a\0lice\ud800", Role.EDITOR, "jwt", credential=Credential("0123", "a\nname"))
    made = sent(CREATE, {}, odd)
    assert made["user_id"] == tags(made)[USER_TAG] == "a\ufffdlice\ufffd"
    assert tags(made)[CREDENTIAL_TAG] == "a\ufffdname"


def test_a_logged_model_is_made_in_the_verified_name() -> None:
    made = sent(MODEL, {"experiment_id": "0", "tags": [{"key": "mlflow.user", "value": "mallory"}]})
    assert tags(made) == {USER_TAG: "alice", CLAIMED_TAG: "mallory"}
    assert "user_id" not in made


def test_a_prompt_lab_run_is_made_in_the_verified_name() -> None:
    made = sent(PROMPTLAB, {"experiment_id": "0", "user_id": "mallory"})
    assert made == {"experiment_id": "0", "user_id": "alice"}
    refusal = refused(PROMPTLAB, {"tags": [{"key": "mlflow.user", "value": "mallory"}]})
    assert refusal.status == 403


def test_what_mlflows_own_jobs_send_is_passed_through() -> None:
    job = Identity("mlflow-jobs", Role.EDITOR, "job")
    for body in (b'{"user_id": "somebody", "tags": []}', b"", b"no JSON"):
        assert checked(of(CREATE), CREATE[1], body, job) is body


def test_what_does_not_say_who_made_something_arrives_unchanged() -> None:
    metric = {"key": "loss", "value": 0.1, "timestamp": 1, "step": 0}
    for route, what in (
        (BATCH, {"run_id": RUN, "metrics": [metric], "tags": [{"key": "é", "value": "\U0001f600\0"}]}),
        (SET, {"run_id": RUN, "key": "note", "value": "mlflow.user"}),
        (DELETE, {"run_id": RUN, "key": "note"}),
        (UPDATE, {"run_id": RUN, "status": "FINISHED", "end_time": 1}),
        (MODEL_TAGS, {"tags": [{"key": "stage", "value": "mlflow_proxy.x"}]}),
        (BATCH, {"run_id": RUN, "metrics": [{**metric, "step": 2**70}]}),
        (BATCH, {"tags": None}),
        (BATCH, {"tags": "mlflow.user"}),
    ):
        assert sent(route, what) == what


def test_a_models_tag_is_deleted_by_its_path_with_a_body_or_without() -> None:
    operation = of(("DELETE", f"{API}/logged-models/m-1/tags/note"))
    assert checked(operation, f"{API}/logged-models/m-1/tags/note", b"", ALICE) == b""
    assert checked(operation, f"{API}/logged-models/m-1/tags/note", b"{}", ALICE) == b"{}"
    for body in (b"", b"{}"):
        for key in ("mlflow.user", "mlflow_proxy.credential", "MLflow.User"):
            with pytest.raises(Refused, match="deleted by a client") as caught:
                checked(operation, f"{API}/logged-models/m-1/tags/{key}", body, ALICE)
            assert caught.value.status == 403


# What is refused.

OURS = (
    "mlflow.user",
    "mlflow_proxy.credential",
    "mlflow_proxy.claimed_user",
    "mlflow_proxy.",
    "mlflow_proxy.x",
)
# Where MySQL or SQL Server hold two keys for the same, the one overwrites the other.
TAKEN_FOR_OURS = (
    "MLflow.User",
    "MLFLOW_PROXY.CREDENTIAL",
    "mlflow.user ",
    " mlflow.user",
    "mlflow.user\t",
    "mlflow.usér",
    "mlflow.user\u0301",
    "m\u0142flow.user",
    "mlfl\u00f8w.user",
    "\uff4d\uff4c\uff46\uff4c\uff4f\uff57\uff0e\uff55\uff53\uff45\uff52",
    "ml\u200bflow.user",
    "mlflow.user\u00a0",
    "mlflow.u\u017fer",
    "ml\ufb02ow.user",
    "\ufeffmlflow.user",
    "mlflow.user\0",
    "mlflow_proxý.credential",
    "\U0001d426lflow.user",
    "ml\u0364flow.us\u0364r",
    "mlflow.u\xdfer",
    "mlflow_prox\xfc.credential",
    "mlflow\u06de.user",
    "\U0001f17clflow.user",
    "m\U0001f600lflow.user\u540d",
    "mlflow.vser",
    "mlflow" + "\u200b" * 200 + ".user",
    "mlflow_proxi.credential",
    "mlflow_prox\u0171.credential",
)
OTHERS = (
    "mlflow.source.name",
    "mlflow.username",
    "mlflow.use",
    "mlflow_proxy",
    "mlflow-proxy.credential",
    "my.mlflow.user",
    "user",
    "",
    "m l f l o w . u s e r s",
    "\u5b66\u7fd2\u7387\u306e\u8a2d\u5b9a\u3068\u8a55\u4fa1\u306e\u7d50\u679c",
    "\xe9\xe8\xea\xeb\xe9\xe8\xea\xeb\xe9\xe8\xea\xeb",
    "\U0001f600" * 12,
    "mlflow.us\u0435r",  # a Cyrillic letter: no database takes it for ours, and no filter finds it
)


@pytest.mark.parametrize("key", [*OURS, *TAKEN_FOR_OURS])
def test_no_client_sets_or_deletes_a_tag_of_ours(key: str) -> None:
    tag = {"key": key, "value": "mallory"}
    for route, what in (
        (SET, {"run_id": RUN, **tag}),
        (DELETE, {"run_id": RUN, "key": key}),
        (BATCH, {"run_id": RUN, "tags": [{"key": "mine", "value": "x"}, tag]}),
        (UPDATE, {"run_id": RUN, "tags": [tag]}),
        (MODEL_TAGS, {"tags": [tag]}),
    ):
        refusal = refused(route, what)
        assert (refusal.status, refusal.reason) == (403, "forbidden")
        assert "Leave it out" in refusal.message
        assert refusal.retry_after is None
    if key != USER_TAG:  # which MLflow's client sends by itself
        for route in (CREATE, MODEL):
            assert refused(route, {"tags": [tag]}).status == 403


@pytest.mark.parametrize("key", OTHERS)
def test_other_tags_are_the_clients(key: str) -> None:
    assert not guarded(key)
    assert tags(sent(CREATE, {"tags": [{"key": key, "value": "x"}]}))[key] == "x"


# Of these scripts there are tens of thousands of letters, and none of Latin is ever taken for one.
FAR = (
    "CJK ",
    "HANGUL ",
    "TANGUT",
    "NUSHU",
    "KHITAN",
    "ANATOLIAN",
    "EGYPTIAN",
    "CUNEIFORM",
    "BAMUM",
    "YI SYLLABLE",
)


@pytest.mark.slow
@needs(*MariaDB.programs)
def test_no_letter_that_a_database_takes_for_one_of_ours_gets_past() -> None:
    """Every character that MariaDB, in any of its collations, finds equal to a piece of our names. Those of
    MySQL are made from the same tables; what it leaves out, any of ours may."""
    names = (verified_names.USER_TAG, verified_names.OWN_TAGS)
    pieces = sorted({name[at : at + size] for name in names for at in range(len(name)) for size in (1, 2, 3)})
    characters = [
        chr(code)
        for code in range(1, 0x110000)
        if (name := unicodedata.name(chr(code), "")) and not name.startswith(FAR)
    ]
    assert len(characters) > 20_000
    with database(MariaDB) as server:
        assert isinstance(server, MariaDB)
        connection = pymysql.connect(unix_socket=str(server.socket), user="root", charset="utf8mb4")
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE mlflow.characters (it VARCHAR(4)) CHARACTER SET utf8mb4")
            for part in range(0, len(characters), 10_000):
                rows = [(character,) for character in characters[part : part + 10_000]]
                cursor.executemany("INSERT INTO mlflow.characters VALUES (%s)", rows)
            cursor.execute("SHOW COLLATION WHERE Charset = 'utf8mb4'")
            collations = [row[0] for row in cursor.fetchall() if not row[0].endswith("_bin")]
            assert len(collations) > 20
            met = 0
            for collation, piece in itertools.product(collations, pieces):
                cursor.execute(
                    f"SELECT it FROM mlflow.characters WHERE it COLLATE {collation} = %s COLLATE {collation}",
                    (piece,),
                )
                for (character,) in cursor.fetchall():
                    name = next(name for name in names if piece in name)
                    assert guarded(name.replace(piece, character)), (collation, piece, character)
                    met += 1
            assert met > 1000


@pytest.mark.parametrize("field", ["user_id", "userId"])
def test_who_made_a_run_is_not_updated(field: str) -> None:
    assert refused(UPDATE, {"run_id": RUN, field: "mallory"}).status == 403


NO_OBJECT = (
    b"",
    b" \n",
    b"null",
    b"[]",
    b"[{}]",
    b'""',
    b'"x"',
    b"1",
    b"true",
    b"{",
    b"{}{}",
    b"{} x",
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a" 1}',
    b"a=1&tags=x",
    b'{"a": "\xff"}',
    b'{"a": "\n"}',
    b"{}\0",
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'"[]"',
    b'"null"',
    b'"{"',
    json.dumps(json.dumps(json.dumps({"key": "mlflow.user"}))).encode(),
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    b'{"a": ' + b"9" * 5000 + b', "b": NaN}',
)


@pytest.mark.parametrize("route", [CREATE, PROMPTLAB, MODEL, BATCH, SET, DELETE, UPDATE, MODEL_TAGS])
@pytest.mark.parametrize("body", NO_OBJECT, ids=lambda body: repr(body[:20]))
def test_a_body_that_is_not_one_json_object_is_refused(route: tuple[str, str], body: bytes) -> None:
    refusal = refused(route, body)
    assert (refusal.status, refusal.reason) == (400, "bad_request")
    assert "one JSON object" in refusal.message
    assert len(refusal.message) < 200


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b" ", "it is empty"),
        (b"null", "it is null"),
        (b"[]", "it is an array"),
        (b"1", "it is not an object"),
        (b'"\\"\\""', "it is a string in a string"),
        (b"false", "it is true or false"),
        (b"a=b", "it is no JSON"),
        (b"[" * 9999, "it is nested too deeply"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_body(body: bytes, why: str) -> None:
    assert refused(CREATE, body).message.endswith(f": {why}.")


def test_tags_that_are_no_array_are_refused_where_ours_have_to_be_among_them() -> None:
    for wrong in ({}, "x", 1, True, {"mlflow.user": "mallory"}):
        for route in (CREATE, MODEL):
            assert refused(route, {"tags": wrong}).status == 400


def test_more_tags_than_anybody_sets_are_refused() -> None:
    many = [{"key": f"tag {n}", "value": "x"} for n in range(5001)]
    for route in (CREATE, MODEL, BATCH, MODEL_TAGS):
        assert refused(route, {"tags": many}).status == 400
        assert len(sent(route, {"tags": many[:-1]})["tags"]) >= 5000


def test_a_body_that_is_too_large_to_be_read_is_refused() -> None:
    large = b'{"a": "' + b"x" * bodies.LIMIT + b'"}'
    for route in (CREATE, BATCH):
        refusal = refused(route, large)
        assert (refusal.status, refusal.reason) == (413, "body_too_large")


@pytest.mark.slow
@pytest.mark.parametrize(
    "filling",
    [b"[],", b"{},", b"1,", b'"",', '{"key":"ł"},'.encode(), b'{"a":1},'],
)
def test_the_costliest_body_does_not_hold_up_everybody_else(filling: bytes) -> None:
    body = b'{"b":NaN,"tags":[' + filling * ((bodies.LIMIT - 50) // len(filling)) + b"1]}"
    began = time.process_time()
    with contextlib.suppress(Refused):
        checked(of(BATCH), BATCH[1], body, ALICE)
    # 0.2 to 0.4 s where this was written, and several times that while others work on the machine.
    assert time.process_time() - began < 5


def test_reading_a_large_body_does_not_wake_the_collector() -> None:
    """It would look at every list so far, again and again: 1 s in place of 0.2 s."""

    def collections() -> int:
        return int(sum(generation["collections"] for generation in gc.get_stats()))

    body = b'{"a":[' + b"[]," * 1_000_000 + b"1]}"
    before = collections()
    bodies.read_object(body)
    assert collections() - before <= 1
    assert gc.isenabled()
    with pytest.raises(bodies.BadBody):
        bodies.read_object(body + b"]")
    assert gc.isenabled()


# That MLflow reads what we have read.


def utf(encoding: str) -> Callable[[Any], bytes]:
    return lambda what: json.dumps(what, ensure_ascii=False).encode(encoding)


def twice(what: Any) -> bytes:
    return json.dumps(json.dumps(what)).encode()


def escaped(what: Any) -> bytes:
    """Every letter of every string as an escape."""
    text = json.dumps(what)
    return "".join(f"\\u{ord(letter):04x}" if letter.isalpha() else letter for letter in text).encode()


ENCODINGS: tuple[Callable[[Any], bytes], ...] = (
    utf("utf-8"),
    utf("utf-8-sig"),
    utf("utf-16"),
    utf("utf-16-le"),
    utf("utf-16-be"),
    utf("utf-32"),
    utf("utf-32-be"),
    twice,
    escaped,
    lambda what: b" \r\n\t" + json.dumps(what, indent=3).encode() + b"\n ",
    lambda what: json.dumps({**what, "": float("nan")}).encode(),
    lambda what: json.dumps({**what, "x": float("-inf"), "y": 2**80, "z": 1e999}).encode(),
    lambda what: json.dumps({**what, "x": "\ud800"}).encode(),
)
WHO = ("mlflow.user", "mlflow_proxy.credential", "MLFLOW.user")
FORGED: tuple[tuple[str, tuple[str, str], bytes], ...] = (
    *(
        (message, route, encode(what))
        for encode in ENCODINGS
        for who in WHO
        for message, route, what in (
            ("CreateRun", CREATE, {"experiment_id": "0", "userId": "mallory", "tags": [{"key": who}]}),
            ("CreateRun", CREATE, {"user_id": "mallory", "tags": [{"key": "a"}, {"key": who, "value": "m"}]}),
            ("LogBatch", BATCH, {"run_id": RUN, "tags": [{"key": who, "value": "mallory"}]}),
            ("LogBatch", BATCH, {"runId": RUN, "tags": [{"key": "a"}, {"value": "mallory", "key": who}]}),
            ("SetTag", SET, {"runUuid": RUN, "key": who, "value": "mallory"}),
            ("DeleteTag", DELETE, {"run_id": RUN, "key": who}),
            ("CreateLoggedModel", MODEL, {"experimentId": "0", "tags": [{"key": who, "value": "m"}]}),
            ("SetLoggedModelTags", MODEL_TAGS, {"tags": [{"key": who, "value": "mallory"}]}),
        )
    ),
    # A name that stands twice: the last counts.
    ("SetTag", SET, b'{"run_id":"x","key":"harmless","key":"mlflow.user","value":"mallory"}'),
    ("SetTag", SET, b'{"run_id":"x","key":"mlflow.user","\\u006bey":"harmless","value":"mallory"}'),
    ("LogBatch", BATCH, b'{"tags":[],"tags":[{"key":"a","key":"mlflow.user","value":"mallory"}]}'),
    ("LogBatch", BATCH, b'{"tags":[{"key":"mlflow.user","value":"mallory"}],"tags":[]}'),
    (
        "CreateRun",
        CREATE,
        b'{"user_id":"alice","user_id":"mallory","tags":[],"tags":[{"key":"mlflow.user"}]}',
    ),
    ("CreateRun", CREATE, b'{"user_id":"mallory","userId":"mallory","userId":"alice"}'),
    # What protobuf can't read ends its reading, and MLflow goes on with what came before.
    ("CreateRun", CREATE, b'{"start_time":"no number","user_id":"mallory","tags":[{"key":"mlflow.user"}]}'),
    ("CreateRun", CREATE, b'{"[x]":1,"user_id":"mallory"}'),
    ("CreateRun", CREATE, b'{"run_name":{},"user_id":"mallory"}'),
    ("CreateRun", CREATE, b'{"tags":[{"key":1},{"key":"mlflow.user","value":"mallory"}]}'),
    (
        "CreateRun",
        CREATE,
        b'{"tags":[{"key":"mlflow.user","value":1},{"key":"mlflow.user","value":"mallory"}]}',
    ),
    ("CreateRun", CREATE, b'{"tags":[null,[],"x",{"key":"mlflow.user","value":"mallory"}]}'),
    ("CreateRun", CREATE, b'{"tags":[{"Key":"mlflow.user","VALUE":"x"}],"User_Id":"mallory","USER_ID":"m"}'),
    ("LogBatch", BATCH, b'{"tags":[{"key":"mlflow.user","value":"mallory"},{"key":1}]}'),
    ("LogBatch", BATCH, b'{"tags":{"key":"mlflow.user","value":"mallory"}}'),
    ("LogBatch", BATCH, b'{"tags":["mlflow.user"],"Tags":[{"key":"mlflow.user","value":"mallory"}]}'),
    ("SetTag", SET, b'{"run_id":"x","key":["mlflow.user"],"value":"mallory"}'),
    ("SetTag", SET, b'{"run_id":"x","key":null,"KEY":"mlflow.user"}'),
    ("SetTag", SET, b'{"run_id":"x","key":{"key":"mlflow.user"}}'),
)
LETTERS = [
    '"',
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "a",
    "key",
    "tags",
    "mlflow.user",
    "\\u006b",
    "1",
    "0",
    "-",
    ".",
]
LETTERS += [
    "e",
    "NaN",
    "Infinity",
    "null",
    "true",
    " ",
    "\n",
    "\0",
    "\x7f",
    "é",
    "\ufeff",
    "\U0001f600",
    "'",
    "//",
]


def fuzzed(count: int) -> list[bytes]:
    """Bodies that are nearly JSON, the same ones every time."""
    chance = random.Random(4)
    found = []
    whole = [body for _, _, body in FORGED]
    for _ in range(count):
        if chance.random() < 0.5:
            text = "".join(chance.choices(LETTERS, k=chance.randrange(1, 12)))
            found.append(f'{{"a":{text}}}'.encode() if chance.random() < 0.5 else text.encode())
        else:
            body = bytearray(chance.choice(whole))
            for _ in range(chance.randrange(1, 3)):
                at = chance.randrange(len(body))
                body[at : at + chance.randrange(2)] = chance.choice(LETTERS).encode()
            found.append(bytes(body))
    return found


Reading = tuple[list[list[Any]], list[list[str]]]


@pytest.fixture(scope="module")
def mlflows() -> Callable[[list[tuple[str, bytes]]], Reading]:
    def read(asked: list[tuple[str, bytes]]) -> Reading:
        done = subprocess.run(
            [sys.executable, Path(__file__).parent / "mlflow_bodies.py"],
            input=json.dumps([[message, base64.b64encode(body).decode()] for message, body in asked]),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return found["read"], found["paths"]

    return read


def who_made(message: str, read: Any) -> list[str]:
    """Every name by which what MLflow has read would say who made something."""
    tags = [*read.get("tags", []), read] if message in ("SetTag", "DeleteTag") else read.get("tags", [])
    return [tag.get("value", "") for tag in tags if guarded(tag.get("key", ""))]


@pytest.mark.slow
def test_no_spelling_gets_past_what_mlflow_reads(
    mlflows: Callable[[list[tuple[str, bytes]]], Reading],
) -> None:
    forwarded = []
    for message, route, body in FORGED:
        with contextlib.suppress(Refused):
            forwarded.append((message, body, checked(of(route), route[1], body, ALICE)))
    read, _ = mlflows([(message, ours) for message, _, ours in forwarded])
    assert len(forwarded) > 30
    for (message, body, ours), (_text, made) in zip(forwarded, read, strict=True):
        if message == "CreateRun":
            assert made is not None, body
            assert made["user_id"] == "alice", body
            assert made["tags"][0] == {"key": USER_TAG, "value": "alice"}, body
        found = who_made(message, made or {})
        assert found == (["alice", *found[1:]] if message.startswith("Create") else []), body
        assert set(found[1:]) <= {"mallory", "m"}, body  # the claim
        assert ours.isascii() or json.loads(ours.decode("utf-8")) == json.loads(ours), body
        names = [key for key, _ in json.loads(ours, object_pairs_hook=list)]
        assert len(names) == len(set(names)), "a name stands twice"


@pytest.mark.slow
def test_mlflow_reads_every_body_as_we_do(mlflows: Callable[[list[tuple[str, bytes]]], Reading]) -> None:
    asked = [*(body for _, _, body in FORGED), *NO_OBJECT, *fuzzed(3000)]
    read, _ = mlflows([("SetTag", body) for body in asked])
    both = 0
    for body, (text, _made) in zip(asked, read, strict=True):
        try:
            ours, strict = bodies.read_object(body)
        except bodies.BadBody:
            # An empty or unreadable one is an empty object to MLflow.
            assert not isinstance(text, dict) or text == {}, body
        else:
            assert json.dumps(ours) == json.dumps(text), body
            assert json.dumps(json.loads(bodies.written(ours, strict))) == json.dumps(text), body
            both += 1
    assert both > 500


@pytest.mark.slow
def test_every_operation_of_mlflow_that_says_who_made_something_is_looked_at(
    mlflows: Callable[[list[tuple[str, bytes]]], Reading],
) -> None:
    _, paths = mlflows([])
    found = {operation_of(method, path.replace("<", "{").replace(">", "}")).name for method, path in paths}
    # log-param has the fields of set-tag; the other two are no protobuf messages, or have no such field.
    assert found - {"log-param"} == verified_names.OPERATIONS - {"create-promptlab-run", "update-run"}


def test_the_operations_are_of_the_table_and_their_bodies_are_read_whole() -> None:
    table = {route.operation.name: route.operation for route in ROUTES}
    for name in verified_names.OPERATIONS:
        assert table[name].access is Access.WRITE
        assert table[name].body == "bounded"


def test_a_json_object_is_written_so_that_it_reads_the_same() -> None:
    for text in (
        "{}",
        '{"a":-0.0}',
        '{"a":1e-320}',
        '{"\u00e9":"\\u0000\u2028\U0001f600"}',
        '{"a":12345678901}',
    ):
        found, strict = bodies.read_object(text.encode())
        assert strict
        assert bodies.written(found, strict).decode() == text
    for text in ('{"a":NaN}', '{"a":[-Infinity]}', '{"a":"\\ud800"}', '{"a":"\\udc00\\ud800"}'):
        found, strict = bodies.read_object(text.encode())
        assert not strict
        assert bodies.written(found, strict).decode() == text


# In the service, before a fake MLflow that tells what arrived.


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


@pytest.fixture(scope="module")
def without() -> Iterator[Rig]:
    """PROXY_VERIFIED_NAMES=false."""
    with rigged(verified_names=False) as rig:
        yield rig


@pytest.mark.parametrize("framing", ["", "Transfer-Encoding: chunked"])
def test_mlflow_gets_the_verified_name_and_its_length(rig: Rig, framing: str) -> None:
    body = json.dumps({"experiment_id": "0", "user_id": "boss"}).encode()
    with rig.client() as client:
        if framing:
            client.request("POST", CREATE[1], "Content-Type: application/json", framing)
            client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            answer = client.answer()
        else:
            answer = client.ask("POST", CREATE[1], "Content-Type: application/json", body=body)
        told = answer.json()
        expected = {"user_id": USER, "experiment_id": "0"}
        expected["tags"] = [{"key": USER_TAG, "value": USER}, {"key": CLAIMED_TAG, "value": "boss"}]
        assert json.loads(told["body"]) == expected
        assert answer.arrived("content-length") == [str(len(told["body"]))]
        assert answer.arrived("transfer-encoding") == []
        # Nothing is left of it on the connection.
        assert client.ask("GET", FLASK).status == 200


def test_what_is_refused_leaves_the_connection_as_it_was_and_never_gets_to_mlflow(rig: Rig) -> None:
    with rig.client() as client:
        for body, status in ((b'{"key": "mlflow.user"}', 403), (b"key=mlflow.user", 400), (b"", 400)):
            answer = client.ask("POST", SET[1], "Content-Type: application/json", body=body or None)
            assert answer.status == status
            assert answer.json()["error_code"] in (
                "PERMISSION_DENIED",
                "INVALID_PARAMETER_VALUE",
                "BAD_REQUEST",
            )
        assert client.ask("GET", FLASK).status == 200


def test_where_the_setting_is_off_everything_passes_as_it_came(without: Rig) -> None:
    with without.client() as client:
        for route in (CREATE, SET):
            for body in (b'{"user_id": "boss",  "key": "mlflow.user"}', b"no JSON"):
                told = client.ask(*route, "Content-Type: application/json", body=body).json()
                assert told["body"].encode() == body


# What a request is about, for the audit log.


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        ("POST", f"{API}/runs/delete", {"run_id": RUN}, {"run_id": RUN}),
        ("POST", f"{API}/runs/delete", {"runId": RUN}, {"run_id": RUN}),
        ("POST", f"{API}/experiments/delete", {"experiment_id": "7"}, {"experiment_id": "7"}),
        ("POST", "/ajax-api/2.0/mlflow/experiments/restore", {"experimentId": 7}, {"experiment_id": "7"}),
        ("DELETE", f"{API}/registered-models/delete", {"name": "a model"}, {"model": "a model"}),
        (
            "DELETE",
            f"{API}/model-versions/delete",
            {"name": "m", "version": "3"},
            {"model": "m", "version": "3"},
        ),
        ("DELETE", f"{API}/logged-models/m-1", None, {"model_id": "m-1"}),
        ("DELETE", f"{API}/logged-models/m-1", {"model_id": "m-2"}, {"model_id": "m-1"}),
        ("DELETE", f"{API}/logged-models/m-1/tags/x", None, {"model_id": "m-1", "key": "x"}),
        (
            "POST",
            "/api/3.0/mlflow/traces/delete-traces",
            {"experiment_id": "1", "request_ids": [f"tr-{n}" for n in range(20)]},
            {
                "experiment_id": "1",
                "trace_id": "tr-0,tr-1,tr-2,tr-3,tr-4,tr-5,tr-6,tr-7,tr-8,tr-9 and 10 more",
            },
        ),
        ("DELETE", "/api/3.0/mlflow/datasets/d-1", None, {"dataset_id": "d-1"}),
        ("DELETE", "/api/3.0/mlflow/mcp-servers/a/b/versions/1", None, {"name": "a/b", "version": "1"}),
        ("DELETE", f"{API}/webhooks/w-1", None, {"webhook_id": "w-1"}),
        ("POST", f"{API}/webhooks", {"name": "n", "url": "https://x", "secret": "s"}, {"name": "n"}),
        ("DELETE", "/api/3.0/mlflow/workspaces/w", None, {"workspace": "w"}),
        ("POST", "/api/3.0/mlflow/workspaces", {"name": "w"}, {"workspace": "w"}),
        (
            "POST",
            "/api/3.0/mlflow/gateway/secrets/create",
            {"secret_name": "openai", "secret_value": {"key": "sk-1"}, "auth_config": {"name": "x"}},
            {"secret": "openai"},
        ),
        (
            "DELETE",
            f"/api/2.0/mlflow-artifacts/artifacts/7/{RUN}/artifacts/a/b.txt",
            None,
            {"experiment_id": "7", "run_id": RUN, "path": f"7/{RUN}/artifacts/a/b.txt"},
        ),
        ("POST", f"{API}/runs/delete", {"run_id": 10**400}, {"run_id": "a large number"}),
        ("POST", f"{API}/runs/delete", {"run_id": "a\nb\x1b"}, {"run_id": "a\ufffdb\ufffd"}),
        ("POST", f"{API}/runs/delete", {"run_id": "a" * 999}, {"run_id": "a" * 256}),
        ("POST", f"{API}/runs/delete", {"run_id": {"run_id": "x"}, "password": "x", "evil_id": "x"}, {}),
        (
            "POST",
            f"{API}/runs/delete",
            {"run_id": ["a" * 199, "b" * 99]},
            {"run_id": "a" * 199 + "," + "b" * 56},
        ),
        (
            "POST",
            f"{API}/runs/delete",
            {"run_uuid": "x", "runId": RUN, "run_id": RUN},
            {"run_id": f"{RUN},x"},
        ),
        (
            "POST",
            f"{API}/runs/delete",
            {**{f"run_id {n}": "x" for n in range(9999)}, "runId": RUN},
            {"run_id": RUN},
        ),
    ],
)
def test_what_a_request_is_about(
    method: str, target: str, body: dict[str, Any] | None, expected: dict[str, str]
) -> None:
    operation = operation_of(method, target)
    assert operation.name != "unknown"
    encoded = b"" if body is None else json.dumps(body).encode()
    assert bodies.target_of(operation, target, b"", encoded) == expected


def test_nothing_is_told_of_a_body_that_is_no_object_and_nothing_is_raised() -> None:
    operation = operation_of("POST", f"{API}/runs/delete")
    for body in [*NO_OBJECT, *fuzzed(500), b"x" * (bodies.LIMIT + 1)]:
        assert isinstance(bodies.target_of(operation, f"{API}/runs/delete", b"a=%zz&", body), dict)


def test_what_a_body_is_about_is_not_hidden_by_its_size_unsaid() -> None:
    operation, path = operation_of("POST", f"{API}/runs/delete"), f"{API}/runs/delete"
    body = json.dumps({"run_id": RUN}).encode()
    assert bodies.target_of(operation, path, b"", body.ljust(bodies.LIMIT)) == {"run_id": RUN}
    assert bodies.target_of(operation, path, b"", body.ljust(bodies.LIMIT + 1)) == {
        "body": "too large to be read"
    }


def test_every_operations_path_tells_what_is_in_it() -> None:
    for route, api in itertools.product(ROUTES, ("api", "ajax-api")):
        path = route.path.replace("{api}", api).replace("{", "").replace("}", "").replace(":path", "")
        assert isinstance(bodies.target_of(route.operation, path, b"", b""), dict)
