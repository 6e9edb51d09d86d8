"""The command line: each stage stands alone, reads files and writes files.

One file a command. Nothing heavy is imported before a command runs, so that ``sparsegate --help`` answers at once; this package
is the only one of its room that may reach into ``sparsegate_hw`` and ``sparsegate_sim``, and does so inside its functions.
"""

from __future__ import annotations

import sys

from sparsegate.cli.app import app

PROGRAM = "sparsegate"


def main() -> None:
    """Entry point of ``sparsegate``."""
    try:
        app(prog_name=PROGRAM)
    except KeyboardInterrupt:  # before a command has begun
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


__all__ = ["app", "main"]
