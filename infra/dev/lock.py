"""``make lock``: resolve every ``infra/requirements/<extra>.txt`` anew from pyproject.toml (or those named).

uv does not read pip's configuration, so what is configured there is passed on. Needs no project dependency.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("control", "dev", "worker-cpu", "worker-bench", "worker-gpu")
_TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    """Lock the extras given as arguments, by default all; the exit status."""
    environment = os.environ | _indexes_of_pip()
    for extra in sys.argv[1:] or EXTRAS:
        print(f"locking {extra}", flush=True)
        if not _compile(extra, environment):
            print(f"{extra}: cannot be resolved", file=sys.stderr)
            return 1
    return 0


def _compile(extra: str, environment: dict[str, str]) -> bool:
    command = [
        str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "--extra", extra, "--upgrade",
        "--no-header", "--no-annotate", "--quiet", "--python-version", "3.11", "--index-strategy",
        "unsafe-best-match", "--output-file", f"infra/requirements/{extra}.txt",
    ]  # fmt: skip
    if extra not in ("worker-cpu", "worker-bench"):
        return _succeeds(command, environment)
    command += ["--overrides", "infra/requirements/cpu-overrides.txt"]
    return _succeeds(command, environment) or _succeeds([*command, "--extra-index-url", _TORCH_CPU_INDEX], environment)


def _succeeds(command: list[str], environment: dict[str, str]) -> bool:
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def _indexes_of_pip() -> dict[str, str]:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    options: dict[str, list[str]] = {}
    for line in listed.splitlines():  # such as global.find-links='/some/folder'; what comes later wins
        key, _, value = line.partition("=")
        options[key.rsplit(".", 1)[1]] = value.strip("'").split()
    found = {
        "UV_FIND_LINKS": ",".join(options.get("find-links", [])),
        "UV_INDEX_URL": " ".join(options.get("index-url", [])),
        "UV_EXTRA_INDEX_URL": " ".join(options.get("extra-index-url", [])),
        "SSL_CERT_FILE": " ".join(options.get("cert", [])),
    }
    return {name: value for name, value in found.items() if value}


if __name__ == "__main__":
    sys.exit(main())
