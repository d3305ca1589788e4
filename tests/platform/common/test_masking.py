"""Secrets do not pass."""

import json
import subprocess
import sys

import pytest

from common.masking import masked

PUBLIC, SECRET = "0123456789abcdef", "f" * 64


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"hone_sk_{PUBLIC}_{SECRET}", f"hone_sk_{PUBLIC}***"),
        (f"key=hone_ak_{PUBLIC}_{SECRET}&x=1", f"key=hone_ak_{PUBLIC}***&x=1"),
        (f"/v1/files/hone_wk_{PUBLIC}_{SECRET}/content", f"/v1/files/hone_wk_{PUBLIC}***/content"),
        (f"X-Session-Token: hone_st_{SECRET[:32]}_{SECRET}", "X-Session-Token: hone_st_***"),
        (f"hone_sk_{PUBLIC}{SECRET}", "hone_sk_***"),
        (f"hone_sk_{SECRET}", "hone_sk_***"),
        (f"hone_sk_{PUBLIC}_{SECRET[:3]}", f"hone_sk_{PUBLIC}***"),
        (f"hone_sk_a_{SECRET} hone_sk_b-{SECRET}", "hone_sk_*** hone_sk_***"),
        (f"token: hone_iv_{PUBLIC}{PUBLIC}_{SECRET}.", "token: hone_iv_***."),
        ("whsec_Ab+/9-_=, then", "whsec_***, then"),
        ("/v1/webhook_endpoints/whsec_Ab%2B%2F9%3D/test", "/v1/webhook_endpoints/whsec_***"),
        ("role hone_app, file hone_skeleton, hone_sk", "role hone_app, file hone_skeleton, hone_sk"),
    ],
)
def test_of_a_key_the_public_id_alone_is_shown(text: str, shown: str) -> None:
    assert masked(text) == shown


SCRIPT = """
import logging, structlog
from common.logging import logging_config

logging_config(level="INFO", as_json={as_json})
token, body = "{token}", "the customer's private text"
structlog.get_logger("a").info("event", path=f"/v1/{{token}}", nested={{"deep": [token]}})
logging.getLogger("b").warning("foreign %s", token, extra={{"thing": "x"}})
try:
    raise ValueError(f"bad {{token}}")
except ValueError:
    structlog.get_logger("c").exception("failed")
    logging.getLogger("d").exception("failed")
"""


def written(*, as_json: bool) -> str:
    """What a process of its own, set up like ours, writes to standard error."""
    script = SCRIPT.format(as_json=as_json, token=f"hone_sk_{PUBLIC}_{SECRET}")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return done.stderr


@pytest.mark.parametrize("as_json", [True, False])
def test_no_log_line_holds_a_secret_or_a_local_variable(as_json: bool) -> None:
    text = written(as_json=as_json)
    assert text.count(f"hone_sk_{PUBLIC}***") == 5
    assert text.count("Traceback (most recent call last)") == 2
    assert SECRET not in text
    assert "private" not in text


def test_a_log_line_is_one_json_object() -> None:
    first, second, third, fourth = [json.loads(line) for line in written(as_json=True).splitlines()]
    assert (first["event"], first["level"], first["logger"]) == ("event", "info", "a")
    assert first["nested"] == {"deep": [f"hone_sk_{PUBLIC}***"]}
    assert (second["event"], second["thing"]) == (f"foreign hone_sk_{PUBLIC}***", "x")
    assert third["exception"].splitlines()[-1] == f"ValueError: bad hone_sk_{PUBLIC}***"
    assert fourth["event"] == "failed"
