"""A fine-tuned model as its owner takes it home: one tar archive, streamed as it is read from the storage."""

import tarfile
from collections.abc import Iterator

import orjson

from catalog.models import FineTunedModel
from common.storage import BlobRange

MANIFEST = "manifest.json"


class ModelArchive:
    """The adapter's files and the signed manifest, in a folder called like the model; the same bytes every time.

    Opened at once, like the :class:`~common.storage.BlobRange` it consists of; whoever has it must ``close`` it.
    """

    def __init__(self, model: FineTunedModel) -> None:
        self.folder = model.name.replace(":", "-")[:80]  # a colon is a host to tar, and no file name to Windows
        self.size = 0
        self._parts: list[bytes | BlobRange] = []
        moment = int(model.created_at.timestamp())
        manifest = orjson.dumps(model.manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        try:
            self._add(MANIFEST, manifest, len(manifest), moment)
            for path, file in sorted(model.files.items()):
                self._add(path, BlobRange(file["storage_key"], 0, file["bytes"]), file["bytes"], moment)
        except Exception:
            self.close()
            raise
        self._append(bytes(2 * tarfile.BLOCKSIZE))

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from part

    def close(self) -> None:
        """Let go of the blobs."""
        for part in self._parts:
            if isinstance(part, BlobRange):
                part.close()

    def _add(self, path: str, content: bytes | BlobRange, size: int, moment: int) -> None:
        entry = tarfile.TarInfo(f"{self.folder}/{path}")
        entry.size, entry.mtime, entry.mode = size, moment, 0o644
        self._append(entry.tobuf(tarfile.USTAR_FORMAT))
        self._parts.append(content)
        self.size += size
        self._append(bytes(-size % tarfile.BLOCKSIZE))

    def _append(self, block: bytes) -> None:
        self._parts.append(block)
        self.size += len(block)
