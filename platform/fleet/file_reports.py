"""Reports on files as work of the control plane: leased like everything else, so that a killed worker repeats them."""

from datetime import timedelta

from django.utils import timezone

from common.errors import HoneError
from common.storage import discard_blobs
from files.models import FileReport
from files.reports import fail_report, finish_report, write_report
from fleet.handlers import ControlHandler
from fleet.heartbeat import Heartbeat
from fleet.models import Lease
from fleet.services import complete_lease, create_lease
from tenants.scope import tenant_scope

KIND = "file_report"
DEADLINE = timedelta(days=1)
"""Late: whoever waits for a batch to be validated comes first."""


class FileReportHandler(ControlHandler):
    """Looks at the rows of a file."""

    kind = KIND

    def run(self, lease: Lease) -> None:
        """Write the report."""
        with tenant_scope(lease.organization_id):
            found = FileReport.objects.filter(lease_id=lease.id)
            report = found.select_related("file", "file__project", "requested_by").first()
        if report is None:  # its file has been deleted
            complete_lease(lease=lease)
            return
        try:
            written = write_report(report=report, beat=Heartbeat(lease))
        except HoneError as error:
            if error.kind.retry or error.code == "lease_lost":
                raise
            self._give_up(lease, error)
            return
        with tenant_scope(lease.organization_id):
            complete_lease(lease=lease)
            is_wanted = finish_report(report=report, written=written)
        if not is_wanted and written.rejects_key:
            discard_blobs(written.rejects_key)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """Better an end than reading for ever."""
        fail_report(lease_id=lease.id, code=code, message=message)

    def _give_up(self, lease: Lease, error: HoneError) -> None:
        """Trying again would not help: what the options name is gone."""
        with tenant_scope(lease.organization_id):
            complete_lease(lease=lease)
            fail_report(lease_id=lease.id, code=error.code, message=error.message)


def queue_report(report: FileReport) -> None:
    """Have a control worker write the report. Call it inside the scope."""
    lease = create_lease(
        organization_id=report.organization_id,
        kind=KIND,
        model="",
        estimated_tokens=0,
        deadline_at=timezone.now() + DEADLINE,
    )
    report.lease_id = lease.id
