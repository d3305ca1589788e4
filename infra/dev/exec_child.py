"""Become another program that gets a signal when the parent dies: ``exec_child.py SIGNAL PARENT_PID PROGRAM ...``.

Run as a file with ``python -I -S``: it uses the standard library alone. A supervisor that is killed with SIGKILL
cannot stop anybody; so the kernel does (Linux; elsewhere the next start of the supervisor finds what was left).
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, make sure that the parent was not gone before that, and turn into the program."""
    number, parent, *argv = sys.argv[1:]
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):
        sys.exit("the parent has ended")
    os.execvp(argv[0], argv)  # noqa: S606  # no shell is wanted


main()
