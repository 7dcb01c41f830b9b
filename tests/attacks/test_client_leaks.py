"""What MLflow's client is led to say or send: a password in a message, a credential out of its folder."""

from __future__ import annotations

import pytest
import requests
from mlflow_proxy_client.addresses import covers, server_url
from mlflow_proxy_client.credentials import CredentialsFile
from mlflow_proxy_client.errors import Problem
from mlflow_proxy_client.plugin import Auth

SERVER = "https://mlflow.example.com"


@pytest.mark.parametrize("uri", ["https://ann:s3cret@mlflow.example.com", ""])
def test_a_password_in_the_tracking_uri_is_in_no_message(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A run's log is read by more people than its environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    file = CredentialsFile(tmp_path_factory.mktemp("nobody") / "mlflow-proxy.json")
    url = "https://ann:s3cret@mlflow.example.com/api/2.0/mlflow/runs/create"
    request = requests.Request("POST", url, auth=Auth(file)).prepare()
    answer = requests.Response()
    answer.status_code, answer.request = 401, request
    (told,) = request.hooks["response"]
    with pytest.raises(Problem, match=f"mlflow-proxy login {SERVER}`") as raised:
        told(answer)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("typed", ["https://ann:s3cret@mlflow.example.com:port", "ftp://ann:s3cret@host/"])
def test_a_password_in_a_url_that_is_none_is_not_repeated(typed: str) -> None:
    with pytest.raises(Problem) as raised:
        server_url(typed)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "path", ["x%2F..%2F..%2Fother", "..%5C..%5Cother", "%252e%252e/other", "..;a=b/other", "x\\..\\..\\other"]
)
def test_a_step_upwards_in_disguise_takes_no_credential_along(path: str) -> None:
    assert covers(f"{SERVER}/ml", f"{SERVER}/ml/a..b/c;d")
    assert not covers(f"{SERVER}/ml", f"{SERVER}/ml/{path}")
