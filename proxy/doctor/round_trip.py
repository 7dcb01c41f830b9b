"""A round trip with MLflow's own client: what somebody who trains a model does, at the public URL."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from proxy.doctor.case import Case, data_directory
from proxy.doctor.outside import Outside, address_of, authorities
from proxy.doctor.result import Result, failure, ok, skipped
from proxy.doctor.running import Running, visit
from proxy.doctor.trials import Broken, steps
from proxy.errors import UserError
from proxy.first_start import DEFAULT_USER, PASSWORD_FILE

SECONDS = 120.0
_NEEDED = (
    "set MLFLOW_TRACKING_TOKEN for the doctor to a token of an admin (`mlflow-proxy "
    "service-accounts`, or the "
    "page /-/account)"
)
# What the client's words mean, the first that fits.
_MEANINGS = (
    (("CERTIFICATE_VERIFY_FAILED", "SSLError"), "see what is told of the certificate"),
    (("PERMISSION_DENIED", "403"), "give it a role that may do that: editor, and admin for deleting "
     "experiments (PROXY_DELETE_ROLE)"),
    (("UNAUTHENTICATED", "401"), "look at the credential: MLFLOW_TRACKING_TOKEN, or user and password"),
    (("413", "Request Entity Too Large"), "see what is told of bodies: something in front refuses it"),
    (("502", "503", "504", "Max retries"), "see what is told of the service and of the way to it"),
)  # fmt: skip


def round_trip(case: Case) -> Iterator[Result]:
    """An experiment of its own, a run, an artifact up and down; all deleted again."""
    if case.service is None:
        yield skipped("client", "no service runs")
        return
    credential, whose = _credential(case)
    if not credential:
        yield skipped("client", whose, _NEEDED)
        return
    if "MLFLOW_TRACKING_TOKEN" not in credential and (why := _not_ours(case, case.service)):
        # The person at this shell has not said that the settings' own password may go there.
        yield skipped("client", f"{whose} is not sent to {address_of(case).url}: {why}", _NEEDED)
        return
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-doctor-") as folder:
        environment = {
            **_plain_environment(),
            **credential,
            "MLFLOW_TRACKING_URI": address_of(case).url,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_PYTHON_REFRESH": "quiet",
            "TMPDIR": folder,
        }
        if (ca := _authorities(case, Path(folder))) is not None:
            environment["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(ca)
        yield ok("credential", whose)
        try:
            for step in steps("client_trial.py", [], environment, case.within(SECONDS) - 5):
                yield ok(step["step"], "done") if step["ok"] else _failed(step["step"], step["said"])
        except Broken as error:
            yield failure("client", f"MLflow's client could not be tried: {error}", _mend(str(error)))


def _not_ours(case: Case, service: Running) -> str | None:
    """Why it is not certain that the address leads to this very service."""
    try:
        with visit(service, case.within(SECONDS)) as opened:
            answer = Outside(address_of(case), opened, case.within(10)).landed()
    except (OSError, UserError) as error:
        return str(error) or type(error).__name__
    return None if "peer" in answer.json() else "it does not lead to this service (see front)"


def _failed(step: str, said: str) -> Result:
    if step == "delete":
        return failure(
            step, f"what was made is there still ({said})", f"{_mend(said)}; then delete it by hand"
        )
    return failure(step, said, _mend(said))


def _mend(said: str) -> str:
    for words, mend in _MEANINGS:
        if any(word in said for word in words):
            return mend
    return "look at the service's log and access log at this moment"


def _credential(case: Case) -> tuple[dict[str, str], str]:
    """The client's variables and whose they are; none and the reason."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    if token:
        return {"MLFLOW_TRACKING_TOKEN": token}, "MLFLOW_TRACKING_TOKEN of this shell"
    settings = case.settings
    if not settings.basic_auth:
        return {}, "passwords are off (PROXY_BASIC_AUTH), and there is no token to try with"
    if case.is_wrong("MLFLOW_TRACKING_PASSWORD") or case.is_wrong("MLFLOW_TRACKING_USERNAME"):
        return {}, "the user name or password in the settings can't be read"
    user = settings.username or DEFAULT_USER
    password = settings.password.get_secret_value() if settings.password is not None else ""
    if not password:
        with contextlib.suppress(OSError):
            password = (data_directory(case).path / PASSWORD_FILE).read_text("utf-8").strip()
    if not password:
        return {}, "the generated password can't be read"
    return {
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password,
    }, f"user {user} of the settings"


def _authorities(case: Case, folder: Path) -> Path | None:
    """One file of whom the client is to believe; None where the system's authorities are enough."""
    named = [path for path in (authorities(case), case.asked.authorities) if path is not None]
    if not named:
        return None
    together = folder / "ca.pem"
    with contextlib.suppress(OSError):
        together.write_bytes(b"\n".join(Path(path).read_bytes() for path in named))
        return together
    return None


def _plain_environment() -> dict[str, str]:
    """This shell's, without what would lead the client elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            ("MLFLOW_", "_MLFLOW_", "PROXY_", "AWS_", "AZURE_", "GOOGLE_", "OTEL_", "DATABRICKS_")
        )
    }
