"""What stands in front of the service: whether host, headers, bodies and streams come through it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

from proxy.doctor.case import Case
from proxy.doctor.outside import Answer, Outside, address_of, continued, elsewhere
from proxy.doctor.result import Result, failure, ok, skipped, warning
from proxy.doctor.running import visit
from proxy.doctor.visits import PIECES
from proxy.errors import UserError

SECONDS = 60.0
# TEST-NET-1 (RFC 5737): nobody's address, so that it is known again.
_POSED = "192.0.2.199"
_CONNECTION = "close, x-mlflow-proxy-doctor"
_SIZES = (10 * 2**30, 2**30, 100 * 2**20, 10 * 2**20, 2 * 2**20, 2**20)
_SENT = 2 * 2**20 + 1
_NOT_SERVED = re.compile(r"'([^']*)' is not a name this server answers to")
_NO_SERVICE = "no service runs that could say what arrives"


def front(case: Case) -> Iterator[Result]:
    """The way from the public URL to the service, tried by requests that the service describes."""
    if case.service is None:
        yield skipped("way", _NO_SERVICE)
        return
    seconds = case.within(10)
    try:
        with visit(case.service, case.within(SECONDS)) as opened:
            outside = Outside(address_of(case), opened, seconds)
            yield from _tried(case, outside)
    except UserError as error:
        yield skipped("way", f"the service can't be asked to listen: {error}")


def _tried(case: Case, outside: Outside) -> Iterator[Result]:
    try:
        answer = outside.landed(
            headers={
                "X-Forwarded-For": _POSED,
                # Of a kind that nobody knows: a replica that this leads to counts no wrong credential.
                "Authorization": f"Doctor {secrets.token_hex(4)}",
                # A relay of bytes leaves this as it is, and whatever reads HTTP has one of its own.
                "Connection": _CONNECTION,
                "Cookie": f"doctor={secrets.token_hex(4)}",
            }
        )
    except OSError as error:
        yield failure(
            "way",
            f"{outside.address.url} does not answer ({error or type(error).__name__})",
            "look at what stands in front of the service, and its log",
        )
        return
    seen = answer.json()
    if answer.status != 200 or "peer" not in seen:
        yield _lost(outside, answer)
        return
    yield ok("way", f"{outside.address.url} leads to this service (HTTP/{seen['http']})")
    yield _host(outside, seen)
    yield _addresses(case, seen, answer)
    for name in ("authorization", "cookie"):
        if not seen[name]:
            yield failure(
                "headers",
                f"the header {name.capitalize()} does not arrive",
                f"have what stands in front pass {name.capitalize()} on; it may do a sign-in of its own",
            )
    yield from _bodies(case, outside)
    yield _stream(outside, case.within(45))


def _lost(outside: Outside, answer: Answer) -> Result:
    url = outside.address.url
    text = answer.body[:4000].decode("utf-8", "replace")
    if answer.status == 421 and (match := _NOT_SERVED.search(text)):
        if match[1].lower() == outside.address.authority.lower():
            mend = f"set PROXY_PUBLIC_URL={url}, or add {outside.address.host} to PROXY_ALLOWED_HOSTS"
        else:
            mend = (
                "have what stands in front pass the client's Host on (nginx: proxy_set_header Host "
                "$http_host), "
                "or add that name to PROXY_ALLOWED_HOSTS"
            )
        return failure("host", f"requests for {outside.address.authority} arrive with Host {match[1]!r}, "
                       "which is not served (421)", mend)  # fmt: skip
    if elsewhere(answer):
        return failure(
            "way",
            f"an mlflow-proxy answers at {url}, and it is not this one",
            f"correct {outside.address.set_by} or what stands in front, or name the data directory of "
            "the one "
            "that answers there",
        )
    if answer.status in (301, 302, 303, 307, 308):
        place = answer.headers.get("location", "")
        return failure(
            "way",
            f"{url} sends clients on to {place[:200]}",
            "set PROXY_PUBLIC_URL to the address it leads to; MLflow's client loses the body of a "
            "POST on the way",
        )
    if answer.status in (502, 503, 504) and not answer.ours:
        return failure(
            "way",
            f"what stands in front answers {answer.status}: it does not reach this service",
            "correct the address that it passes on to (MLFLOW_HOST, MLFLOW_PORT; https:// where "
            "PROXY_TLS is on)",
        )
    if answer.status in (401, 403) and not answer.ours:
        return failure(
            "way",
            f"what stands in front answers {answer.status}: it asks for a sign-in of its own, or blocks",
            "let everything through there: this service authenticates",
        )
    what = "this service refuses" if answer.ours else "something else answers"
    return failure(
        "way",
        f"{what} at {url}: {answer.status} {' '.join(text.split())[:120]}",
        f"correct {outside.address.set_by}, or what stands in front",
    )


def _host(outside: Outside, seen: dict[str, Any]) -> Result:
    came = ", ".join(seen["host"])
    if came.lower() == outside.address.authority.lower():
        return ok("host", f"Host arrives as {came}")
    return warning(
        "host",
        f"Host {outside.address.authority} arrives as {came}",
        "have what stands in front pass the client's Host on (nginx: proxy_set_header Host $http_host)",
    )


def _addresses(case: Case, seen: dict[str, Any], answer: Answer) -> Result:
    """Whether the service learns its clients' addresses, and only from whom it should."""
    peer = seen["peer"][0]
    hops = [hop.strip() for value in seen["forwarded"].get("x-forwarded-for", []) for hop in value.split(",")]
    if seen["peer"] == list(answer.local):
        return ok("addresses", f"nothing stands in front; the client is {seen['client']}")
    as_sent = hops == [_POSED] and set(seen["forwarded"]) == {"x-forwarded-for"}
    if as_sent and seen["connection"] == [_CONNECTION] and not seen["trusted"]:
        return ok("addresses", f"bytes are passed on as they are; all clients that come this way are {peer}")
    set_it = "nginx: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for"
    if not hops:
        return warning(
            "addresses",
            f"what stands in front ({peer}) does not say whose requests it passes on (X-Forwarded-For), so "
            "all clients have one address: limits on sign-ins hold for all together, and logs don't tell",
            f"have it add the client's address ({set_it})",
        )
    if hops[-1] == _POSED:
        said = f"{peer} passes X-Forwarded-For on as clients send it: anybody can pose as any address"
        if seen["trusted"]:
            return failure("addresses", said, f"have it add the client's address ({set_it})")
        return warning(
            "addresses",
            f"{said}, and so it is not believed (PROXY_TRUSTED_PROXIES)",
            f"have it add the client's address ({set_it}), then name {peer} in PROXY_TRUSTED_PROXIES",
        )
    if not seen["trusted"]:
        return warning(
            "addresses",
            f"X-Forwarded-For is not believed, as {peer} is not in PROXY_TRUSTED_PROXIES: all clients have "
            "its address",
            f"set PROXY_TRUSTED_PROXIES={','.join([*map(str, case.settings.trusted_proxies), peer])}",
        )
    return ok("addresses", f"{peer} is trusted and adds the client's address")


def _bodies(case: Case, outside: Outside) -> Iterator[Result]:
    """A body of 2 MiB is sent; larger ones are only declared, and what is answered to that is read."""
    limit = case.settings.body_limit
    mend = (
        "lift the limit there, this service has its own (nginx: client_max_body_size 0; Apache: "
        "LimitRequestBody 0; "
        'nginx ingress: proxy-body-size: "0")'
    )
    try:
        answer = outside.landed("POST", body=[b"\0" * 65536] * (_SENT // 65536) + [b"\0" * (_SENT % 65536)])
    except OSError as error:
        yield failure("body", f"an upload of 2 MiB in chunks breaks off ({error})", mend)
        return
    if answer.status == 413:
        yield failure(
            "body", f"an upload of 2 MiB is refused by what stands in front ({answer.status})", mend
        )
        return
    if answer.json().get("body") != _SENT:
        yield failure(
            "body",
            f"an upload of {_SENT} bytes in chunks gets {answer.status}, and "
            f"{answer.json().get('body')} arrive",
            "have what stands in front pass chunked bodies on (nginx: proxy_http_version 1.1); where it "
            "answers 500, its log says why (nginx: can it write to client_body_temp_path?)",
        )
        return
    refused = 0
    for size in _SIZES:
        try:
            status = _continued(outside, size, case.within(5))
        except OSError as error:
            yield skipped("body", f"2 MiB arrive; for larger ones nothing can be said ({error})")
            return
        if status == 100:
            break
        if status != 413:
            yield ok(
                "body", "2 MiB arrive; larger ones can't be asked about (no answer to Expect: 100-continue)"
            )
            return
        refused = size
    if not refused:
        yield ok("body", f"uploads of {_size(_SIZES[0])} and more are taken")
    elif refused <= limit:
        yield failure(
            "body",
            f"what stands in front refuses bodies of {_size(refused)} (413), and MLflow's calls may have "
            f"{_size(limit)} (PROXY_BODY_LIMIT)",
            mend,
        )
    else:
        yield warning("body", f"what stands in front refuses artifacts of {_size(refused)} (413)", mend)


def _continued(outside: Outside, size: int, seconds: float) -> int:
    for _ in range(3):
        status = continued(outside, size, seconds)
        if status not in (401, 403, 404):  # another replica
            break
    return status


def _stream(outside: Outside, seconds: float) -> Result:
    """Each piece is sent when the one before has arrived, which the service is told by another way: nothing
    is measured in time but how long it waits for that."""
    for _ in range(6):
        try:
            with outside.begun(do="stream", seconds=seconds) as (response, _):
                if response.status != 200:
                    continue
                arrived, last = 0, b""
                while line := response.readline():
                    if line.startswith(b"data: in time"):
                        last = line
                    elif line.startswith(b"data: "):
                        arrived += 1
                        outside.visit.got(arrived)
        except (OSError, UserError) as error:
            return skipped("stream", f"it can't be tried ({error})")
        if last.strip() == b"data: in time %d" % PIECES:
            return ok("stream", "answers arrive piece by piece, as they are written")
        if last or not arrived:
            return warning(
                "stream",
                "what stands in front holds answers back until they are whole: MLflow's gateway and "
                "assistant stream theirs, and large downloads go by its disk",
                'switch buffering off (nginx: proxy_buffering off; nginx ingress: proxy-buffering: "off")',
            )
        return warning("stream", "an answer in pieces breaks off", "look at the log of what stands in front")
    return skipped("stream", "no connection led to this very service")


def _size(number: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= factor:
            return f"{number / factor:g} {unit}"
    return f"{number} bytes"
