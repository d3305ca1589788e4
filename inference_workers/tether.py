"""Run a command that does not outlive its parent: ``python -m inference_workers.tether PARENT_PID COMMAND...``

A module that sets the parent-death signal and becomes the command, instead of ``preexec_fn``, which runs Python
between fork and exec and may deadlock in a process with threads. Linux only (prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""linux/prctl.h. The signal is kept across exec and cleared in children, which their parent must end."""


def main() -> None:
    """Become the command, or exit when the parent is gone already."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the signal was set, so no signal will come
        sys.exit("the parent process is gone")
    os.execvp(command[0], command)  # noqa: S606  # no shell: the command is an argument vector


if __name__ == "__main__":
    main()
