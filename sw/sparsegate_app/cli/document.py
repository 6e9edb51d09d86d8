"""``python -m sparsegate_app.cli.document docs/reference/cli.md``: the commands' own help as a page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from sparsegate_app.cli import PROGRAM, app

WIDTH = 110
HEAD = """\
# The command line

Made by `make docs` from the commands' own `--help`; a test says that it is current.

Results go to stdout (with `--json`, nothing but JSON), progress and errors to stderr. The exit status is 0 for success, 1 for an
error or a difference that was found, 2 for a wrong option, 130 after Ctrl-C or SIGTERM. Files appear whole or not at all.

A *Network* holds float weights, a *Program* integers and formats; both are described in [file-formats.md](file-formats.md).
Wherever a command takes a Program it also takes the folder that `compile` made of one, and then leaves its result there for
`report`.
"""


def commands() -> list[tuple[str, ...]]:
    """Every command's words, in the order of the help; the first is the program itself."""
    found: list[tuple[str, ...]] = [()]
    found += [(str(command.name),) for command in app.registered_commands]
    for group in app.registered_groups:
        found.append((str(group.name),))
        inner = group.typer_instance.registered_commands if group.typer_instance else []
        found += [
            (str(group.name), str(command.name or getattr(command.callback, "__name__", ""))) for command in inner
        ]
    return found


def help_of(words: tuple[str, ...]) -> str:
    """What ``sparsegate WORDS --help`` prints, plain and of a fixed width."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("COLUMNS", "FORCE_COLOR", "GITHUB"))
    }
    environment |= {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "sparsegate_app.cli", *words, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in run.stdout.strip("\n").splitlines()).strip("\n")


def sections() -> Iterator[str]:
    """The page, part by part."""
    yield HEAD
    for words in commands():
        yield f"## {' '.join((PROGRAM, *words))}\n\n```text\n{help_of(words)}\n```\n"


def document() -> str:
    """The whole page."""
    return "\n".join(sections())


if __name__ == "__main__":
    from sparsegate import artefact

    artefact.write_text(sys.argv[1], document())
