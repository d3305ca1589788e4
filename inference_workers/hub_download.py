"""Fetch one pinned revision from a Hugging Face hub: ``python -m inference_workers.hub_download REPO REVISION FOLDER``

A program of its own, so that a killed ``prepare`` takes the transfer with it. The library reads HF_ENDPOINT and
HF_TOKEN from the environment, and continues a transfer that it finds half done in the folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

from .safe_files import SAFE_PATTERNS


def main() -> None:
    """Fetch the safe files; exit with a sentence when the hub cannot be reached or has no such revision."""
    repository, revision, folder = sys.argv[1:]
    try:
        snapshot_download(repository, revision=revision, allow_patterns=SAFE_PATTERNS, local_dir=folder, max_workers=4)
    except Exception as error:  # the library's errors come from several HTTP stacks
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        sys.exit(f"{repository}@{revision} could not be fetched from the hub: {type(error).__name__}: {first_line}")
    shutil.rmtree(Path(folder, ".cache"), ignore_errors=True)


if __name__ == "__main__":
    main()
