"""A key is replaced by another one without a moment in which neither works."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from common.errors import HoneError
from tenants.models import ApiKey, AuditEvent
from tenants.services import create_api_key, revoke_key, rotate_key
from tests.support.cast import ApiClient, Cast
from tests.support.facts import query_owner
from tests.support.keys import key_of, refusal, update_key
from tests.support.tables import rows_of
from tests.support.threads import at_once

IDENTITY = {"id", "public_id", "digest", "created_at", "expires_at", "last_used_at", "rotated_at"}
DAY = timedelta(days=1)


def seconds_left(key: ApiKey) -> int | None:
    """Until a key expires."""
    sql = "SELECT round(extract(epoch FROM expires_at - now()) / 60) * 60 FROM tenants_apikey WHERE id = %s"
    ((seconds,),) = query_owner(sql, key.id)
    return None if seconds is None else int(seconds)


def test_both_keys_work_until_the_old_one_expires(cast: Cast) -> None:
    old = key_of(cast.alice)
    issued = rotate_key(key=old, overlap=DAY, actor="key_1")
    assert (refusal(cast.alice.client), refusal(ApiClient(issued.token))) == (None, None)
    assert (seconds_left(old), seconds_left(issued.key)) == (86_400, None)
    update_key(cast.alice, expires_at=Now())
    assert (refusal(cast.alice.client), refusal(ApiClient(issued.token))) == ("invalid_api_key", None)


def test_the_new_key_has_the_rights_of_the_old_one(cast: Cast) -> None:
    old = create_api_key(
        project=cast.alice.project,
        name="narrow",
        actor="system",
        scopes=frozenset({"models.read"}),
        allowed_models=["little"],
        allowed_ips=["127.0.0.1"],
    ).key
    new = rotate_key(key=old, overlap=DAY, actor="key_1").key
    columns = [field.attname for field in ApiKey._meta.concrete_fields]
    assert set(columns) >= IDENTITY
    stored = ApiKey.all_tenants.in_bulk([old.id, new.id])
    differing = {name for name in columns if getattr(stored[old.id], name) != getattr(stored[new.id], name)}
    assert differing == IDENTITY - {"last_used_at"}
    assert (stored[new.id].rotated_at, stored[new.id].revoked_at) == (None, None)


def test_without_an_overlap_the_old_key_ends_now(cast: Cast) -> None:
    issued = rotate_key(key=key_of(cast.alice), overlap=timedelta(), actor="key_1")
    assert (refusal(cast.alice.client), refusal(ApiClient(issued.token))) == ("invalid_api_key", None)


def test_the_new_key_lives_as_long_as_the_old_one_was_made_for_and_the_old_one_no_longer(cast: Cast) -> None:
    update_key(cast.alice, created_at=Now() - 89 * DAY, expires_at=Now() + DAY)
    old = key_of(cast.alice)
    new = rotate_key(key=old, overlap=7 * DAY, actor="key_1").key
    assert (seconds_left(old), seconds_left(new)) == (86_400, 90 * 86_400)


def test_a_rotation_is_audited(cast: Cast) -> None:
    old = key_of(cast.alice)
    new = rotate_key(key=old, overlap=DAY, actor="key_1").key
    event = AuditEvent.all_tenants.get(action="api_key.rotated")
    assert (event.actor, event.subject) == ("key_1", old.wire_id)
    assert event.details == {"successor": new.wire_id, "overlap_seconds": 86_400}


def test_of_rotations_at_the_same_time_one_makes_a_key(cast: Cast) -> None:
    old = key_of(cast.alice)

    def rotate() -> str:
        try:
            rotate_key(key=old, overlap=DAY, actor="key_1")
        except HoneError as error:
            return error.code
        return "rotated"

    before = ApiKey.all_tenants.count()
    assert sorted(at_once(*[rotate] * 4)) == ["conflict"] * 3 + ["rotated"]
    assert ApiKey.all_tenants.count() == before + 1
    assert AuditEvent.all_tenants.filter(action="api_key.rotated").count() == 1


def test_a_successor_is_rotated_in_its_turn(cast: Cast) -> None:
    second = rotate_key(key=key_of(cast.alice), overlap=DAY, actor="key_1")
    third = rotate_key(key=second.key, overlap=DAY, actor="key_1")
    assert [refusal(ApiClient(issued.token)) for issued in (second, third)] == [None, None]


def _revoke(cast: Cast) -> None:
    revoke_key(key=key_of(cast.alice), actor="system")


def _expire(cast: Cast) -> None:
    update_key(cast.alice, expires_at=Now())


@pytest.mark.parametrize("end", [_revoke, _expire])
def test_a_key_that_has_ended_is_not_revived(cast: Cast, end: Any) -> None:
    end(cast)
    before = rows_of(cast.alice.organization.id)
    with pytest.raises(HoneError) as caught:
        rotate_key(key=key_of(cast.alice), overlap=DAY, actor="key_1")
    assert caught.value.code == "conflict"
    assert rows_of(cast.alice.organization.id) == before


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=30, seconds=1)])
def test_an_overlap_has_its_limits(cast: Cast, overlap: timedelta) -> None:
    before = rows_of(cast.alice.organization.id)
    with pytest.raises(HoneError) as caught:
        rotate_key(key=key_of(cast.alice), overlap=overlap, actor="key_1")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "overlap")
    assert rows_of(cast.alice.organization.id) == before


def run(*arguments: str) -> list[str]:
    output = StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue().splitlines()


def test_an_operator_rotates_and_revokes_by_public_id(cast: Cast) -> None:
    public_id = key_of(cast.alice).public_id
    lines = run("rotate_key", public_id, "--overlap-hours", "2")
    assert seconds_left(key_of(cast.alice)) == 7_200
    assert (refusal(cast.alice.client), refusal(ApiClient(lines[-1]))) == (None, None)
    assert run("revoke_key", public_id) == [f"{key_of(cast.alice).wire_id} is revoked"]
    assert (refusal(cast.alice.client), refusal(ApiClient(lines[-1]))) == ("invalid_api_key", None)


@pytest.mark.parametrize(
    "arguments",
    [["revoke_key", "0" * 16], ["rotate_key", "0" * 16], ["rotate_key", "", "--overlap-hours", "-1"],
     ["rotate_key", "", "--overlap-hours", "nan"], ["rotate_key", "", "--overlap-hours", "1e300"]],
)  # fmt: skip
def test_an_operator_is_told_what_is_wrong(cast: Cast, arguments: list[str]) -> None:
    before = rows_of(cast.alice.organization.id)
    with pytest.raises(CommandError):
        run(*[argument or key_of(cast.alice).public_id for argument in arguments])
    assert rows_of(cast.alice.organization.id) == before
