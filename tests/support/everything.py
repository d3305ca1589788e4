"""A tenant with at least one row of every kind, made the way customers and workers make them."""

from dataclasses import dataclass
from pathlib import Path

from django.test import override_settings

from billing.services import place_hold
from finetuning.canaries import start_canary
from notifications.delivery import send_due_deliveries
from notifications.models import EventType
from notifications.services import emit_event
from tenants.scope import tenant_scope
from tests.support.adapters import publish, register
from tests.support.cast import MODEL, Member
from tests.support.evaluations import evaluate
from tests.support.jobs import checkpoint, claim, complete, metrics, queue, train, upload_checkpoint
from tests.support.model import add_chat_model
from tests.support.receiver import open_receiver
from tests.support.rows import jsonl, line, submit
from tests.support.uploads import begin
from tests.support.worker import Worker, refusal, result, run_control


@dataclass(frozen=True)
class Everything:
    """Ids of what the member has."""

    file_id: str
    training_file_id: str
    batch_id: str
    finished_batch_id: str
    webhook_endpoint_id: str
    delivery_id: str
    job_id: str
    finished_job_id: str
    upload_id: str
    part_id: str
    project_id: str
    user_id: str
    admin_key_id: str
    project_key_id: str
    service_account_id: str
    invite_id: str
    tuned_model: str
    aliased_model: str
    alias: str
    permission_id: str
    rate_limit_id: str = f"rl-{MODEL}"


def make_everything(member: Member, folder: Path) -> Everything:
    """A finished batch with a failed row, another that waits, a file that nobody uses, one that arrives, money held.

    And a file of training data whose report names a bad row, a job that has trained a model, another that waits.
    """
    add_chat_model(folder / "model")
    worker = Worker()
    finished = submit(member, jsonl([line(1), line(2), {"custom_id": "bad"}]), on_invalid="skip")
    run_control()
    grant = worker.lease()
    grant.put(0, [result(1), refusal(2)])
    grant.complete()
    training = member.client.upload(b'{"messages": []}\n', purpose="fine-tune").json()
    run_control()
    waiting = submit(member, jsonl([line(1)]))
    unused = member.client.upload(b"{}\n").json()
    with tenant_scope(member.organization.id):
        place_hold(organization_id=member.organization.id, job="ftjob-everything", amount_nanos=1_000, key="everything")
    endpoint_id, delivery_id = _make_webhooks(member, finished["id"])
    upload_id, (part_id,) = begin(member, b"{}\n")
    return Everything(
        file_id=unused["id"],
        training_file_id=training["id"],
        batch_id=waiting["id"],
        finished_batch_id=finished["id"],
        webhook_endpoint_id=endpoint_id,
        delivery_id=delivery_id,
        upload_id=upload_id,
        part_id=part_id,
        **_train(member),
        **_fine_tune(member),
        **_administer(member),
    )


def _train(member: Member) -> dict[str, str]:
    """A job with a checkpoint that has come to its end and was evaluated, and one whose training waits."""
    finished = queue(member, validation_fraction=0.25)
    grant = claim(f"trainer-of-{member.organization.id.hex}")
    upload_checkpoint(grant, 1)
    grant.report(metrics(1, 1, 10), checkpoint(2, 1))
    train(grant, finished, first=3)
    complete(grant)
    evaluate(worker=grant.worker)
    return {"job_id": queue(member)["id"], "finished_job_id": finished["id"]}


def _fine_tune(member: Member) -> dict[str, str]:
    """Two versions of a model, an alias that has moved to the second, a permission, and a third that is being tried."""
    first, second, lone = (publish(member) for _ in range(3))
    with tenant_scope(member.organization.id):
        start_canary(model=register(member))
    for path, fields in (
        ("", {"alias": "support-bot", "model": first.name}),
        ("/support-bot", {"model": second.name}),
        ("", {"alias": "steady-bot", "model": first.name}),
    ):
        answer = member.client.post(f"/v1/models/aliases{path}", fields)
        assert answer.status_code == 200, answer.content
    permissions = f"/v1/fine_tuning/checkpoints/{lone.name}/permissions"
    answer = member.admin.post(permissions, {"project_ids": [member.project.wire_id]})
    assert answer.status_code == 200, answer.content
    return {
        "tuned_model": lone.name,
        "aliased_model": second.name,
        "alias": "support-bot",
        "permission_id": answer.json()["data"][0]["id"],
    }


def _administer(member: Member) -> dict[str, str]:
    """The newest member in the project, a key of each kind, a service account, an invitation, limits and a policy."""
    newest = member.admin.get("/v1/organization/users").json()["data"][0]["id"]
    project = f"/v1/organization/projects/{member.project.wire_id}"

    def post(path: str, **fields: object) -> str:
        answer = member.admin.post(path, fields)
        assert answer.status_code == 200, answer.content
        return str(answer.json().get("id"))

    post(f"{project}/rate_limits/rl-{MODEL}", max_requests_per_1_minute=5)
    post(f"{project}/model_permissions", mode="allow_list", model_ids=[MODEL])
    return {
        "project_id": member.project.wire_id,
        "user_id": post(f"{project}/users", user_id=newest, role="member"),
        "admin_key_id": post("/v1/organization/admin_api_keys", name="second"),
        "project_key_id": post(f"{project}/api_keys", name="second"),
        "service_account_id": post(f"{project}/service_accounts", name="robot"),
        "invite_id": post(
            "/v1/organization/invites",
            email=f"guest-of-{member.organization.id.hex}@example.com",
            role="viewer",
            projects=[{"id": member.project.wire_id, "role": "member"}],
        ),
    }


def _make_webhooks(member: Member, batch_id: str) -> tuple[str, str]:
    """Two endpoints, and a delivery that one of them has taken."""
    with override_settings(WEBHOOK_ALLOW_PRIVATE=True), open_receiver() as receiver:
        told, _ = [
            member.client.post(
                "/v1/webhook_endpoints", {"name": type_, "url": receiver.url, "event_types": [type_]}
            ).json()
            for type_ in (EventType.BATCH_COMPLETED, EventType.BATCH_FAILED)
        ]
        with tenant_scope(member.organization.id):
            emit_event(
                organization_id=member.organization.id,
                project_id=member.project.id,
                type=EventType.BATCH_COMPLETED,
                object_id=batch_id,
            )
        assert send_due_deliveries() == 1
    (delivery,) = member.client.get(f"/v1/webhook_endpoints/{told['id']}/deliveries").json()["data"]
    return told["id"], delivery["id"]
