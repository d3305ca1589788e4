#!/usr/bin/env python
"""Django's command line for the control plane."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run one management command."""
    # platform/ is a source root, never a package: the package name belongs to the standard library.
    sys.path.insert(0, str(Path(__file__).resolve().parent / "platform"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.development")

    from django.core.management import execute_from_command_line  # noqa: PLC0415  # the path is set above

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
