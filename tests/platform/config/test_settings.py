"""Settings come from the environment; a bad value stops the start."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from environ import FileAwareEnv, ImproperlyConfigured
from environ.fileaware_mapping import FileAwareMapping

GOOD = {
    "SECRET_KEY": "s" * 50,
    "KEY_PEPPER": "ab" * 32,
    "DATABASE_URL": "postgresql://hone_app@127.0.0.1:1/hone",
    "DATABASE_SYSTEM_URL": "postgresql://hone_system@127.0.0.1:1/hone",
    "DATABASE_OWNER_URL": "postgresql://hone_owner@127.0.0.1:1/hone",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "ALLOWED_HOSTS": "api.example.com",
    "EMAIL_URL": "smtp+tls://hone:secret@mail.example.com:587",
}
Load = Callable[..., ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Read the production settings anew, in this environment alone; the tests' own stay as they are."""

    def read(**changes: str | None) -> ModuleType:
        environment = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
        monkeypatch.setattr(FileAwareEnv, "ENVIRON", FileAwareMapping(env=environment))
        monkeypatch.setattr("common.logging.logging_config", lambda **_: None)
        for name in ("config.settings.base", "config.settings.production"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module("config.settings.production")

    return read


def test_a_complete_environment_starts(load: Load) -> None:
    settings = load()
    assert (settings.DEBUG, settings.ALLOWED_HOSTS, settings.SECURE_SSL_REDIRECT) == (False, ["api.example.com"], True)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_value_stops_the_start(load: Load, name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=name):
        load(**{name: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEY_PEPPER", "ab" * 31), ("KEY_PEPPER", "not hexadecimal"), ("DATABASE_URL", "sqlite:///db"),
        ("HONE_FILE_MAX_BYTES", "many"), ("SECURE_SSL_REDIRECT", ""), ("SECURE_SSL_REDIRECT", "ture"),
        ("LOG_JSON", "1"), ("HONE_BATCH_ROW_RETENTION_DAYS", "-1"), ("HONE_BATCH_ROW_RETENTION_DAYS", "36501"),
        ("HONE_SIGNUP_CREDIT_USD", "-1"), ("HONE_SIGNUP_CREDIT_USD", "a lot"), ("EMAIL_URL", "mail.example.com"),
        ("HONE_LIMIT_REQUESTS_PER_MINUTE", "0"), ("HONE_LIMIT_BATCH_INPUT_TOKENS", "-1"),
        ("HONE_LIMIT_TOKENS_PER_MINUTE", str(2**63)), ("EMAIL_URL", "pigeon://roof"),
        ("HONE_DELETED_FILE_RETENTION_DAYS", "a month"), ("HONE_DELETED_FILE_RETENTION_DAYS", "0.5"),
        ("HONE_TRUSTED_PROXIES", "10.0.0.0/8,proxy"), ("HONE_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("HONE_KEY_CACHE_SECONDS", "-1"), ("HONE_KEY_CACHE_SECONDS", "3601"), ("HONE_KEY_CACHE_SECONDS", "nan"),
    ],
)  # fmt: skip
def test_a_malformed_value_stops_the_start(load: Load, name: str, value: str) -> None:
    with pytest.raises((ImproperlyConfigured, ValueError)):
        load(**{name: value})


def test_a_secret_may_be_a_file(load: Load, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file")
    assert load(SECRET_KEY=None, SECRET_KEY_FILE=str(secret)).SECRET_KEY == "from a file"


def test_proxies_are_trusted_by_name_alone(load: Load) -> None:
    assert load().TRUSTED_PROXIES == ()
    trusted = load(HONE_TRUSTED_PROXIES="10.0.0.0/8, 2001:db8::1").TRUSTED_PROXIES
    assert [str(network) for network in trusted] == ["10.0.0.0/8", "2001:db8::1/128"]
