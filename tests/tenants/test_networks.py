"""Keys that may be used from some addresses alone."""

from ipaddress import ip_network
from typing import Any

import pytest

from common.errors import HoneError
from tenants.models import ApiKey, AuditEvent
from tenants.networks import checked_networks
from tenants.scope import tenant_scope
from tenants.services import create_admin_key, create_api_key, set_allowed_ips
from tests.support.cast import ApiClient, Cast
from tests.support.tables import rows_of


def test_networks_are_written_one_way() -> None:
    texts = ["203.0.113.7", "203.0.113.0/24", "2001:DB8:0::/32", "203.0.113.7/32"]
    assert checked_networks(texts, param="p") == ["203.0.113.7/32", "203.0.113.0/24", "2001:db8::/32"]
    assert checked_networks(None, param="p") is None


@pytest.mark.parametrize(
    "texts",
    [[], ["203.0.113.1/24"], ["everywhere"], ["203.0.113.7", ""], ["1.2.3.4/33"], ["fe80::1%eth0"], ["1.2.3.4"] * 101],
)
def test_a_key_is_not_made_for_something_else(cast: Cast, texts: list[str]) -> None:
    before = rows_of(cast.alice.organization.id)
    with pytest.raises(HoneError) as caught:
        create_api_key(project=cast.alice.project, name="k", actor="system", allowed_ips=texts)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "allowed_ips")
    assert rows_of(cast.alice.organization.id) == before


def outcome(client: ApiClient, **request: str) -> tuple[int, str | None]:
    answer: Any = client.get("/v1/models", **request)
    return answer.status_code, answer.json().get("error", {}).get("code")


def test_a_key_is_good_in_its_networks_alone(cast: Cast) -> None:
    issued = create_api_key(
        project=cast.alice.project, name="k", actor="system", allowed_ips=["203.0.113.0/24", "2001:db8::/32"]
    )
    client = ApiClient(issued.token)
    assert outcome(client, REMOTE_ADDR="203.0.113.200") == (200, None)
    assert outcome(client, REMOTE_ADDR="2001:db8::9") == (200, None)
    before = rows_of(cast.alice.organization.id)
    answer = client.get("/v1/models", REMOTE_ADDR="203.0.114.1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ip_not_allowed")
    assert "203.0.114.1" in answer.json()["error"]["message"]
    assert outcome(client) == (403, "ip_not_allowed")
    assert outcome(client, REMOTE_ADDR="") == (403, "ip_not_allowed")
    # Not believed: no proxy is trusted.
    assert outcome(client, HTTP_X_FORWARDED_FOR="203.0.113.200") == (403, "ip_not_allowed")
    assert rows_of(cast.alice.organization.id) == before


def test_a_trusted_proxy_says_who_calls(cast: Cast, settings: Any) -> None:
    settings.TRUSTED_PROXIES = [ip_network("127.0.0.0/8")]
    issued = create_admin_key(
        organization_id=cast.alice.organization.id, name="k", actor="system", allowed_ips=["203.0.113.7"]
    )

    def balance(forwarded_for: str) -> int:
        answer = ApiClient(issued.token).get("/v1/organization/balance", HTTP_X_FORWARDED_FOR=forwarded_for)
        return int(answer.status_code)

    assert balance("203.0.113.7") == 200
    assert balance("198.51.100.1, 203.0.113.7") == 200
    assert balance("203.0.113.7, 198.51.100.1") == 403
    assert balance("") == 403


def test_a_key_is_bound_and_set_free(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        key = ApiKey.objects.get(kind=ApiKey.Kind.PROJECT)
    assert outcome(cast.alice.client) == (200, None)
    for _ in range(2):
        set_allowed_ips(key=key, allowed_ips=["203.0.113.7"], actor="key_1")
    assert outcome(cast.alice.client) == (403, "ip_not_allowed")
    for _ in range(2):
        set_allowed_ips(key=key, allowed_ips=None, actor="key_1")
    assert outcome(cast.alice.client) == (200, None)
    events = AuditEvent.all_tenants.filter(action="api_key.allowed_ips_set").order_by("id")
    assert [(event.actor, event.subject, event.details) for event in events] == [
        ("key_1", key.wire_id, {"allowed_ips": ["203.0.113.7/32"]}),
        ("key_1", key.wire_id, {"allowed_ips": None}),
    ]
