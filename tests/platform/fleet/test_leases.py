"""Leases: claimed fairly, held while alive, fenced when lost, given up in the end."""

from typing import Any

import pytest
from django.db import connections, transaction
from pytest_django import Settings

from common.database import OWNER
from fleet.claims import claim_lease
from fleet.services import sweep_leases
from inference_workers.protocol import LEASE_HEADER
from tenants.models import Organization
from tenants.services import set_organization_status
from tests.support.cast import MODEL, Cast, Member
from tests.support.facts import accounts_agree, change, leases, let_back_off_pass, let_leases_run_out, query_owner
from tests.support.rows import jsonl, line, read_file, retrieve, submit
from tests.support.worker import Grant, Worker, result, run_control

pytestmark = pytest.mark.usefixtures("model")


def queue(member: Member, shards: int = 1) -> Any:
    """A batch of one row per shard."""
    batch = submit(member, jsonl([line(number) for number in range(1, shards + 1)]))
    run_control()
    return batch


@pytest.fixture(autouse=True)
def single_rows(settings: Settings) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 1


def claim_all(limit: int = 100) -> list[str]:
    """Names of the organisations in the order in which their work is claimed; nothing finishes meanwhile."""
    names = []
    for _ in range(limit):
        lease = claim_lease(kinds=["batch_shard"], models=[MODEL], node_id=None)
        if lease is None:
            break
        names.append(lease.organization.name[0])
    return names


def test_tenants_take_turns_however_much_one_has_queued(cast: Cast) -> None:
    queue(cast.alice, 6)
    queue(cast.charlie, 3)
    assert claim_all() == ["A", "C", "A", "C", "A", "C", "A", "A", "A"]


def test_a_tenant_of_double_weight_runs_double(cast: Cast) -> None:
    queue(cast.alice, 4)
    queue(cast.charlie, 4)
    change("UPDATE tenants_organization SET weight = 2 WHERE id = %s", cast.charlie.organization.id)
    change("UPDATE fleet_lease SET estimated_tokens = 100")
    assert claim_all(6) == ["A", "C", "C", "A", "C", "C"]


def test_tokens_count_not_leases(cast: Cast) -> None:
    queue(cast.alice, 3)
    queue(cast.charlie, 4)
    change(
        "UPDATE fleet_lease SET estimated_tokens = CASE WHEN organization_id = %s THEN 1000 ELSE 400 END",
        cast.alice.organization.id,
    )
    assert claim_all(5) == ["A", "C", "C", "C", "A"]


def test_among_equals_the_earliest_deadline_comes_first(cast: Cast) -> None:
    first, second = queue(cast.alice), queue(cast.alice)
    theirs = queue(cast.charlie)
    change(
        "UPDATE fleet_lease SET deadline_at = now() + interval '1 hour' FROM batches_shard shard "
        "WHERE shard.lease_id = fleet_lease.id AND shard.batch_id = ANY(%s::uuid[])",
        [batch["id"].removeprefix("batch_") for batch in (second, theirs)],
    )
    change(
        "UPDATE fleet_lease SET deadline_at = deadline_at - interval '1 minute' WHERE organization_id = %s",
        cast.charlie.organization.id,
    )
    worker = Worker()
    assert [worker.lease().work["batch_id"] for _ in range(3)] == [theirs["id"], second["id"], first["id"]]


def test_work_of_a_suspended_organisation_is_not_claimed(cast: Cast) -> None:
    queue(cast.alice)
    unvalidated = submit(cast.alice, jsonl([line(1)]))
    set_organization_status(organization=cast.alice.organization, status=Organization.Status.SUSPENDED, actor="test")
    assert Worker().request_lease().status_code == 204
    assert claim_lease(kinds=["batch_validation"], models=[""], node_id=None) is None
    assert {lease.state for lease in leases()} == {"waiting"}
    set_organization_status(organization=cast.alice.organization, status=Organization.Status.ACTIVE, actor="test")
    assert Worker().request_lease().status_code == 200
    run_control()
    assert retrieve(cast.alice, unvalidated)["status"] == "in_progress"


def test_work_in_its_pause_is_not_claimed_and_other_work_is(cast: Cast) -> None:
    queue(cast.alice, 2)
    paused = leases()[0].id
    change("UPDATE fleet_lease SET not_before = now() + interval '1 minute' WHERE id = %s", paused)
    worker = Worker()
    assert worker.lease().id != f"lease_{paused.hex}"
    assert worker.request_lease().status_code == 204


def test_a_node_gets_work_only_for_models_it_offers(cast: Cast) -> None:
    queue(cast.alice)
    worker = Worker()
    for models in ([], ["other"], [""], ["little "]):
        assert worker.request_lease(models=models).status_code == 204
    assert worker.request_lease(models=["other", MODEL]).status_code == 200


@pytest.mark.parametrize("state", ["starting", "failed"])
def test_there_is_no_work_for_a_model_that_is_not_ready(cast: Cast, state: str) -> None:
    queue(cast.alice)
    worker = Worker()
    worker.report(state=state)
    assert worker.request_lease().status_code == 204
    assert [lease.state for lease in leases()] == ["waiting"]
    worker.report()
    assert worker.request_lease().status_code == 200


def test_a_node_that_has_enough_of_somes_work_gets_anothers(cast: Cast) -> None:
    queue(cast.alice, 2)
    worker = Worker()
    alice = worker.request_lease().json()["organization_id"]
    assert alice == cast.alice.organization.wire_id
    assert worker.request_lease(except_organizations=[alice]).status_code == 204
    queue(cast.charlie)
    others = worker.request_lease(except_organizations=[alice, "org_nonsense"])
    assert others.json()["organization_id"] == cast.charlie.organization.wire_id
    assert worker.request_lease(except_organizations=[cast.charlie.organization.wire_id]).status_code == 200


def test_a_node_cannot_ask_for_work_of_the_control_plane(cast: Cast) -> None:
    submit(cast.alice, jsonl([line(1)]))
    worker = Worker()
    assert worker.request_lease(model="", kinds=["batch_validation"]).status_code == 400
    assert worker.request_lease(model="").status_code == 204
    assert [lease.state for lease in leases("batch_validation")] == ["waiting"]


def test_a_grant_says_all_that_a_node_needs(cast: Cast) -> None:
    batch = queue(cast.alice)
    grant = Worker().request_lease().json()
    (lease,) = leases()
    assert grant.pop("token")
    assert grant == {
        "id": lease.wire_id,
        "epoch": 1,
        "kind": "batch_shard",
        "model": MODEL,
        "organization_id": cast.alice.organization.wire_id,
        "weight": 1,
        "lease_seconds": 15.0,
        "estimated_tokens": lease.estimated_tokens,
        "deadline_at": lease.deadline_at.timestamp(),
        "work": {
            "batch_id": batch["id"],
            "endpoint": "/v1/chat/completions",
            "rows": 1,
            "next_segment": 0,
            "row_timeout_seconds": 600,
            "adapter": None,
        },
    }


def test_a_heartbeat_holds_the_lease_and_silence_loses_it(cast: Cast) -> None:
    queue(cast.alice)
    grant = Worker().lease()
    let_leases_run_out()
    assert grant.heartbeat() == "continue"
    sweep_leases()
    assert [lease.state for lease in leases()] == ["leased"]
    let_leases_run_out()
    sweep_leases()
    assert query_owner(
        "SELECT state, node_id, attempts, failure ->> 'code' FROM fleet_lease WHERE kind = 'batch_shard'"
    ) == [("waiting", None, 1, "holder_lost")]
    assert grant.heartbeat() == "lost"


def held(*grants: Grant) -> list[dict[str, Any]]:
    return [{"id": grant.id, "epoch": grant.epoch, "rows_in_flight": 1} for grant in grants]


def seconds_left() -> list[int]:
    rows = query_owner(
        "SELECT round(extract(epoch FROM leased_until - now())) FROM fleet_lease WHERE state = 'leased' ORDER BY id"
    )
    return [int(seconds) for (seconds,) in rows]


def test_one_heartbeat_renews_all_leases_of_the_node_and_no_others(cast: Cast) -> None:
    queue(cast.alice, 3)
    queue(cast.charlie, 1)
    worker, other = Worker(name="node-1"), Worker(name="node-2")
    mine, theirs = [worker.lease(), worker.lease(), worker.lease()], other.lease()
    change("UPDATE fleet_lease SET leased_until = now() + interval '5 seconds' WHERE state = 'leased'")
    stale = {**held(mine[2])[0], "epoch": 7}
    orders = worker.report(leases=[*held(mine[0], mine[1], theirs), stale]).json()["leases"]
    assert orders == {mine[0].id: "continue", mine[1].id: "continue", theirs.id: "lost", mine[2].id: "lost"}
    assert sorted(seconds_left()) == [5, 5, 15, 15]


def test_a_lease_with_much_time_left_is_not_written(cast: Cast) -> None:
    queue(cast.alice)
    grant = Worker().lease()
    change("UPDATE fleet_lease SET leased_until = now() + interval '12 seconds' WHERE state = 'leased'")
    assert grant.heartbeat() == "continue"
    assert seconds_left() == [12]
    change("UPDATE fleet_lease SET leased_until = now() + interval '9 seconds' WHERE state = 'leased'")
    assert grant.heartbeat() == "continue"
    assert seconds_left() == [15]


def test_a_lease_that_is_locked_holds_up_no_heartbeat(cast: Cast) -> None:
    queue(cast.alice, 2)
    worker = Worker()
    grants = worker.lease(), worker.lease()
    change("UPDATE fleet_lease SET leased_until = now() + interval '5 seconds' WHERE state = 'leased'")
    with transaction.atomic(using=OWNER), connections[OWNER].cursor() as cursor:
        cursor.execute("SELECT id FROM fleet_lease WHERE id = %s FOR UPDATE", [grants[0].id.removeprefix("lease_")])
        orders = worker.report(leases=held(*grants)).json()["leases"]
    assert orders == {grants[0].id: "continue", grants[1].id: "continue"}
    assert sorted(seconds_left()) == [5, 15]
    assert worker.report(leases=held(*grants)).status_code == 200
    assert seconds_left() == [15, 15]


def test_leases_that_cannot_be_are_lost(cast: Cast) -> None:
    queue(cast.alice)
    worker = Worker()
    grant = worker.lease()
    claims = [("lease_1", 1), ("nonsense", 1), (f"lease_{'0' * 32}", 1), (f"batch_{'0' * 32}", 1), ("lease_é", 1)]
    ids = [*claims, (grant.id, 2**31)]
    answer = worker.report(leases=[{"id": lease_id, "epoch": epoch} for lease_id, epoch in ids])
    assert answer.json()["leases"] == {lease_id: "lost" for lease_id, _ in ids}
    assert grant.heartbeat() == "continue"


def test_every_claim_has_an_epoch_of_its_own(cast: Cast) -> None:
    queue(cast.alice)
    worker = Worker()
    epochs = []
    for _ in range(3):
        grant = worker.lease()
        epochs.append(grant.epoch)
        grant.fail()
        let_back_off_pass()
    assert epochs == [1, 2, 3]


def test_a_try_counts_only_when_it_brought_nothing(cast: Cast, settings: Settings) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 256
    settings.LEASE_MAX_ATTEMPTS = 3
    batch = queue(cast.alice, 10)
    worker = Worker()
    attempts = []
    for number, brings in enumerate([False, True, False, False, True, True, True, False, False]):
        grant = worker.lease()
        if brings:
            assert grant.put(grant.work["next_segment"], [result(number + 1)]).status_code == 201
        let_leases_run_out()
        sweep_leases()
        let_back_off_pass()
        attempts.append(leases()[0].attempts)
    assert attempts == [1, 0, 1, 2, 0, 0, 0, 1, 2]
    assert retrieve(cast.alice, batch)["request_counts"]["completed"] == 4


def test_rows_that_no_try_brings_fail_and_their_neighbours_keep_their_results(cast: Cast, settings: Settings) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 256
    settings.LEASE_MAX_ATTEMPTS = 2
    batch = queue(cast.alice, 4)
    worker = Worker()
    worker.lease().put(0, [result(2)])
    for _ in range(3):
        let_leases_run_out()
        sweep_leases()
        let_back_off_pass()
        worker.request_lease()
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 4, "completed": 1, "failed": 3})
    rows = read_file(cast.alice, done["error_file_id"])
    assert [(row["line"], row["custom_id"], row["response"]) for row in rows] == [
        (1, "row-1", None), (3, "row-3", None), (4, "row-4", None),
    ]  # fmt: skip
    assert {row["error"]["code"] for row in rows} == {"worker_failure"}
    assert rows[0]["error"]["message"] == (
        "The request could not be run (holder_lost: The holder of the work went silent)"
    )
    assert accounts_agree(batch)


def test_work_that_a_node_declares_hopeless_is_not_tried_again(cast: Cast) -> None:
    batch = queue(cast.alice)
    Worker().lease().fail("model_gone" * 100, message="x" * 10_000, retryable=False)
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]["failed"]) == ("completed", 1)
    (row,) = read_file(cast.alice, done["error_file_id"])
    assert row["error"]["message"] == f"The request could not be run ({('model_gone' * 7)[:64]}: {'x' * 500})"


def test_pauses_between_tries_grow_to_a_minute(cast: Cast, settings: Settings) -> None:
    settings.LEASE_MAX_ATTEMPTS = 9
    queue(cast.alice)
    worker = Worker()
    pauses = []
    for _ in range(8):
        worker.lease().fail()
        pauses.append(
            int(query_owner("SELECT round(extract(epoch FROM max(not_before) - now())) FROM fleet_lease")[0][0])
        )
        let_back_off_pass()
    assert pauses == [1, 3, 7, 15, 31, 60, 60, 60]


def call_all(grant: Grant) -> set[tuple[int, str]]:
    """Every call on a lease; their distinct answers."""
    answers = [
        grant.put(0, [result(1)]),
        grant.complete(),
        grant.fail(),
        grant.worker.call("GET", f"leases/{grant.id}/input", lease=grant),
    ]
    return {(answer.status_code, answer.json()["error"]["code"]) for answer in answers}


def test_a_lease_answers_only_to_its_own_token_from_its_own_node(cast: Cast) -> None:
    queue(cast.alice, 2)
    mine, other = Worker(name="node-1"), Worker(name="node-2")
    grant, theirs = mine.lease(), other.lease()
    before = query_owner("SELECT to_jsonb(l)::text FROM fleet_lease l ORDER BY id")
    flipped = grant.token[:-1] + ("A" if grant.token[-1] != "A" else "B")
    for worker, lease_id, token in (
        (mine, grant.id, ""),
        (mine, grant.id, "nonsense"),
        (mine, grant.id, flipped),
        (mine, grant.id, theirs.token),
        (mine, theirs.id, grant.token),
        (mine, theirs.id, theirs.token),
        (other, grant.id, grant.token),
        (mine, f"lease_{'0' * 32}", grant.token),
        (mine, "lease_1", grant.token),
    ):
        assert call_all(Grant(worker, lease_id, token, 1, {})) == {(409, "lease_lost")}
    without = mine.call("POST", f"leases/{grant.id}/complete", {})
    assert without.json()["error"]["message"] == f"Send the lease's token in the header {LEASE_HEADER}"
    assert query_owner("SELECT to_jsonb(l)::text FROM fleet_lease l ORDER BY id") == before
    assert grant.heartbeat() == "continue"


def test_a_lease_that_has_ended_answers_to_nobody(cast: Cast) -> None:
    queue(cast.alice)
    grant = Worker().lease()
    grant.put(0, [result(1)])
    assert grant.complete().status_code == 200
    assert call_all(grant) == {(409, "lease_lost")}
    assert grant.heartbeat() == "lost"


def test_a_failure_that_makes_no_sense_is_refused(cast: Cast) -> None:
    queue(cast.alice)
    grant = Worker().lease()
    bodies: list[Any] = [{}, {"code": "x"}, {"code": 1, "message": "x"}, {"code": "x", "message": "a\0"}, [], "x"]
    for body in bodies:
        answer = grant.worker.call("POST", f"leases/{grant.id}/fail", body, lease=grant)
        assert answer.status_code == 400
    assert grant.heartbeat() == "continue"
