"""Blobs of organisations that no row refers to: what a process leaves that dies between storing bytes and its commit.

Apps register who refers to a kind (:func:`register_blob_owner`); a kind that nobody has registered is never touched.

Why a blob that is about to get its row survives: every writer stores the bytes and commits the row that names them
right after, in seconds, and no row ever comes to name a blob that is older than the work that writes it, unless another
row names it by then. So a blob that has no row a day after it was written will never have one. A day is also far more
than clocks differ by.
"""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

import structlog
from django.core.files.storage import default_storage
from django.utils import timezone

from common.storage import Removed, list_folder, storage_errors

logger = structlog.get_logger(__name__)

ORPHANED_AFTER = timedelta(days=1)
PAGE = 1_000
Referenced = Callable[[UUID, list[str]], set[str]]
"""``(organisation, keys)`` -> those of the keys that rows of the organisation refer to."""

_owners: dict[str, Referenced] = {}


def register_blob_owner(*, kind: str, referenced: Referenced) -> None:
    """Make known who refers to the blobs at ``<organisation>/<kind>/``; apps call it in ``AppConfig.ready``."""
    _owners[kind] = referenced


def delete_orphaned_blobs() -> Removed:
    """Delete what has been without a row for a day. Through Django's storage interface, so on any storage.

    That interface lists a folder at once: memory holds the names of one kind of one organisation. Ages are asked for
    only where no row was found.
    """
    written_before = timezone.now() - ORPHANED_AFTER
    removed = Removed()
    for organization_id, kind in _registered_folders():
        names = iter(list_folder(f"{organization_id.hex}/{kind}")[1])
        while page := [f"{organization_id.hex}/{kind}/{name}" for name in islice(names, PAGE)]:
            for key in set(page) - _owners[kind](organization_id, page):
                _delete_if_old(key, written_before, removed)
    if removed.blobs:
        logger.warning("orphaned blobs deleted", blobs=removed.blobs, bytes=removed.bytes)
    return removed


def _registered_folders() -> Iterator[tuple[UUID, str]]:
    for folder in list_folder("")[0]:
        if re.fullmatch(r"[0-9a-f]{32}", folder):  # the installation's own folders have names
            for kind in list_folder(folder)[0]:
                if kind in _owners:
                    yield UUID(hex=folder), kind


def _delete_if_old(key: str, written_before: datetime, removed: Removed) -> None:
    with storage_errors():
        try:
            if default_storage.get_modified_time(key) >= written_before:
                return
            size = default_storage.size(key)
        except FileNotFoundError:
            return  # whoever stored it has discarded it meanwhile
        default_storage.delete(key)
    removed.blobs += 1
    removed.bytes += size
