"""What a job leaves: its result file, its logs; and what it does not leave."""

import io
import tarfile
import zipfile

import pytest

from tests.support.blobs import blobs
from tests.support.cast import Cast
from tests.support.facts import query_owner
from tests.support.jobs import (
    JOBS,
    act,
    checkpoint,
    claim,
    complete,
    done,
    finish,
    metrics,
    queue,
    retrieve,
    upload_adapter,
    upload_checkpoint,
)
from tests.support.webhooks import make_endpoint

pytestmark = pytest.mark.usefixtures("model")


def test_the_result_file_is_a_table_of_all_steps(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    grant.report(metrics(1, 1, 10), metrics(2, 2, 20, valid_loss=0.75, valid_token_accuracy=0.5), metrics(3, 4, 40))
    upload_adapter(grant)
    grant.report(done(4, 4, 40))
    complete(grant)
    (file_id,) = retrieve(cast.alice, job)["result_files"]
    file = cast.alice.client.get(f"/v1/files/{file_id}").json()
    assert (file["purpose"], file["filename"]) == ("fine-tune-results", f"{job['id']}_results.csv")
    content = cast.alice.client.get(f"/v1/files/{file_id}/content").getvalue().decode()
    assert content == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,1.0,0.5,,\n2,0.5,0.5,0.75,0.5\n4,0.25,0.5,,\n"
    )


def test_logs_are_a_zip_file_as_soon_as_there_are_some(cast: Cast) -> None:
    job = queue(cast.alice)
    path = f"{JOBS}/{job['id']}/logs"
    assert cast.alice.client.get(path).status_code == 404
    grant = claim()
    grant.upload("logs/000001.events.out.tfevents.1", b"one")
    grant.upload("logs/000002.events.out.tfevents.1", b"two")
    answer = cast.alice.client.get(path)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}-logs.zip"'
    archive = zipfile.ZipFile(io.BytesIO(answer.getvalue()))
    assert {name: archive.read(name) for name in archive.namelist()} == {
        "000001.events.out.tfevents.1": b"one",
        "000002.events.out.tfevents.1": b"two",
    }


def test_the_weights_can_be_taken_home_when_the_job_has_succeeded(cast: Cast) -> None:
    job = queue(cast.alice)
    path = f"{JOBS}/{job['id']}/download"
    refused = cast.alice.client.get(path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    done_job = finish(cast.alice, job)
    content = cast.alice.client.get(path).getvalue()
    assert content == cast.alice.client.get(f"/v1/models/{done_job['fine_tuned_model']}/download").getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = {name.rpartition("/")[2] for name in archive.getnames()}
    assert names == {"manifest.json", "adapter_config.json", "adapter_model.safetensors"}


def test_what_a_job_worked_with_goes_when_it_has_ended(cast: Cast) -> None:
    before = blobs()
    job = queue(cast.alice)
    grant = claim()
    upload_checkpoint(grant, 1)
    grant.report(checkpoint(1, 1, interim=True))
    assert len(blobs() - before) == 1 + 1 + 4  # the file, the data, the checkpoint
    act(cast.alice, job, "cancel")
    assert len(blobs() - before) == 1
    finish(cast.alice, queue(cast.alice))
    paths = {path for (path,) in query_owner("SELECT path FROM finetuning_artifact")}
    assert paths == {"logs/000001.events.out.tfevents.1"}
    assert len(blobs() - before) == 1 + 2 + 1 + 1  # the file, the model, its results, a log


def test_the_adapter_of_a_checkpoint_waits_for_its_publication(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    upload_checkpoint(grant, 1)
    grant.report(checkpoint(1, 1))
    act(cast.alice, job, "cancel")
    paths = {path for (path,) in query_owner("SELECT path FROM finetuning_artifact")}
    assert paths == {"checkpoints/step-1/adapter_config.json", "checkpoints/step-1/adapter_model.safetensors"}


def test_the_project_is_told_of_the_end(cast: Cast) -> None:
    types = [f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled")]
    make_endpoint(cast.alice, "https://example.com/hook", *types)
    succeeded = finish(cast.alice, queue(cast.alice))
    failed, cancelled = queue(cast.alice), queue(cast.alice)
    claim("trainer-2").fail("diverged", retryable=False)
    act(cast.alice, cancelled, "cancel")
    told = query_owner("SELECT type, object_id FROM notifications_event ORDER BY id")
    assert told == list(zip(types, [succeeded["id"], failed["id"], cancelled["id"]], strict=True))
