"""The password of a first start, and the passwords that a person may not choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.auth import passwords
from proxy.errors import UserError
from proxy.first_start import check_password, kept_password
from proxy.settings import Settings


def test_a_password_is_made_once_kept_for_the_owner_alone_and_read_again(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    password = check_password(settings)
    file = tmp_path / "data" / "password"
    assert len(password) >= 20
    assert file.read_text() == password + "\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert check_password(settings) == password
    assert [path.name for path in file.parent.iterdir()] == ["password"]
    assert check_password(Settings(data_dir=tmp_path / "another")) != password


def test_a_kept_password_that_others_could_read_is_put_right_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept_password(tmp_path)
    (tmp_path / "password").chmod(0o644)
    password = kept_password(tmp_path)
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    assert "could be read by others" in caplog.text
    assert password not in caplog.text


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"\xff\xfe\xfd"])
def test_a_damaged_kept_password_is_named_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(UserError, match=r"password .*MLFLOW_TRACKING_PASSWORD"):
        kept_password(tmp_path)
    assert (tmp_path / "password").read_bytes() == content


@pytest.mark.parametrize(
    "password",
    [
        "admin",
        "password",
        "Password123!",
        "P@ssw0rd",
        "p@ssw0rd2024!",
        "changeme",
        "change-me-please",
        "mlflow",
        "mlflow-2024",
        "minioadmin",
        "password1234",
        "s3cr3t!!",
        "12345678",
        "87654321",
        "aaaaaaaa",
        "abababab",
        "abcdefghij",
        "correct-horse-battery-staple",
        "data.scientist1",
        "x7!kq",
    ],
)
def test_a_weak_password_set_by_a_person_is_refused_at_start(tmp_path: Path, password: str) -> None:
    given = {"username": "data.scientist", "password": password, "data_dir": tmp_path}
    with pytest.raises(
        UserError, match=r"^MLFLOW_TRACKING_PASSWORD: the password (is|has|holds) .*ALLOW_WEAK"
    ):
        check_password(Settings(**given))
    assert check_password(Settings(**given, allow_weak_password=True)) == password
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("password", ["uE4-x9Qz", "seven lamps hum", "длинный пароль", "mlflow-tiger-9-rows"])
def test_a_password_that_is_not_easily_guessed_is_taken(tmp_path: Path, password: str) -> None:
    assert check_password(Settings(username="ann", password=password, data_dir=tmp_path)) == password


def test_the_refusal_does_not_show_the_password_and_offers_a_good_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        check_password(Settings(username="ann", password="Changeme77", data_dir=tmp_path))
    message = str(refusal.value)
    assert "Changeme77" not in message
    offered = message.partition("will do: ")[2].partition(")")[0]
    assert passwords.weakness(offered, "ann") is None
