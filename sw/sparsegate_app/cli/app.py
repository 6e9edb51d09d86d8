"""The Typer application: global options, and the one place where errors become sentences."""

from __future__ import annotations

import errno
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sparsegate import __version__, extras
from sparsegate.errors import SparseGateError
from sparsegate_app import console
from sparsegate_app.cli import (
    allocate,
    bench,
    compile_,
    demo,
    doctor,
    estimate,
    golden,
    import_,
    patch,
    pictures,
    prune,
    quantize,
    report,
    run,
    sensitivity,
    simulate,
    synth,
    train,
)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""


class Guarded(TyperGroup):
    """Runs a command; what a user can cause ends in one sentence, a traceback comes only with ``--debug``."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                traceback.print_exc()
            console.error("interrupted; files are written whole or not at all, so nothing half-written is left")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            sentence = describe(error)
            if sentence is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            console.error(sentence)
            raise typer.Exit(1) from None


def describe(error: Exception) -> str | None:
    """The sentence for an error; None for what Typer itself handles: usage errors, exits, and readers that went away."""
    if isinstance(error, SparseGateError):
        return str(error)
    if isinstance(error, ImportError) and (missing := extras.sentence(error)):
        return missing
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:  # sparsegate ... | head
            return None
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    if isinstance(error, MemoryError):
        return "there is not enough memory; try fewer sequences"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # torch has no type for it
        return "there is not enough memory; try fewer sequences or fewer units"
    if type(error).__module__.startswith(("typer", "click")):
        return None
    return f"unexpected {type(error).__name__}: {error} (a bug; 'sparsegate --debug' shows where)"


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From a trained recurrent network to a sparse, bit-exact FPGA accelerator.

    The stages, in order: [bold]train[/] or [bold]import[/], [bold]prune[/] (patterns by [bold]sensitivity[/] and
    [bold]allocate[/]), [bold]quantize[/], [bold]compile[/],
    [bold]golden[/], [bold]simulate[/], [bold]estimate[/], [bold]synth[/], [bold]patch[/], [bold]run[/],
    [bold]report[/]. [bold]demo[/] does all of them on real
    speech; [bold]doctor[/] says which tools are there.
    """


MODEL, HARDWARE, REST = "From a model to a Program", "From a Program to a board", "The whole, and the surroundings"

app.command("train", rich_help_panel=MODEL)(train.train)
app.command("import", rich_help_panel=MODEL)(import_.import_)
app.command("sensitivity", rich_help_panel=MODEL)(sensitivity.sensitivity)
app.command("allocate", rich_help_panel=MODEL)(allocate.allocate)
app.command("prune", rich_help_panel=MODEL)(prune.prune)
app.command("quantize", rich_help_panel=MODEL)(quantize.quantize)
app.command("golden", rich_help_panel=MODEL)(golden.golden)
app.command("compile", rich_help_panel=HARDWARE)(compile_.compile_)
app.command("simulate", rich_help_panel=HARDWARE)(simulate.simulate)
app.command("estimate", rich_help_panel=HARDWARE)(estimate.estimate)
app.command("synth", rich_help_panel=HARDWARE)(synth.synth)
app.command("patch", rich_help_panel=HARDWARE)(patch.patch)
app.command("run", rich_help_panel=HARDWARE)(run.run)
app.command("demo", rich_help_panel=REST)(demo.demo)
app.command("report", rich_help_panel=REST)(report.report)
app.command("pictures", rich_help_panel=REST)(pictures.pictures)
app.command("doctor", rich_help_panel=REST)(doctor.doctor)
app.add_typer(bench.app, name="bench", rich_help_panel=REST)
