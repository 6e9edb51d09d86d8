"""The command line: each stage stands alone, reads files and writes files.

One file a command: it parses options, calls a stage and prints what that gives. Nothing heavy is imported before a command runs, so
that ``sparsegate --help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

try:
    from sparsegate_app.cli.app import INTERRUPTED, app
except KeyboardInterrupt:  # while the command line itself is loaded, a quarter of a second
    sys.stderr.write("error: interrupted\n")
    sys.stderr.flush()
    os._exit(130)

PROGRAM = "sparsegate"


def main() -> None:
    """Entry point of ``sparsegate``.

    What ends it from outside (SIGTERM: ``timeout``, ``kill``) ends it as Ctrl-C does, with the tools and simulators that it runs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(prog_name=PROGRAM)
    except KeyboardInterrupt:  # before a command has begun
        print("error: interrupted", file=sys.stderr)
        _leave()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _leave()
        raise


def _leave() -> NoReturn:
    """Exit with the status of an interrupt.

    Not through ``sys.exit``: once an interrupt has passed through code that an extension runs (as while torch is imported), Python
    kills itself with SIGINT at its end, although the interrupt was caught and everything is cleaned up.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


__all__ = ["app", "main"]
