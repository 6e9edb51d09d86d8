"""``sparsegate sensitivity``: how much accuracy every matrix loses to every pattern."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import Data, Json, NetworkFile, check_classes, one_thread, open_data, percent
from sparsegate_app.console import TimeLeft

if TYPE_CHECKING:
    from sparsegate.network import Network

PATTERNS = ("1:4", "1:8", "2:16", "1:16", "2:32")


def sensitivity(
    network: NetworkFile,
    data: Data = "vowels",
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern", "-p", metavar="N:M", help=f"A pattern to try; repeatable. Default: {', '.join(PATTERNS)}."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSON file to write; one that an interrupted scan left is completed.")
    ] = Path("build/sensitivity.json"),
    golden: Annotated[
        bool, typer.Option("--golden", help="Score the golden model, with 8 bits, instead of the float network.")
    ] = False,
    compensated: Annotated[
        bool, typer.Option("--compensated", help="Prune so that kept weights make up for what goes; takes longer.")
    ] = False,
    heads: Annotated[bool, typer.Option("--heads", help="Scan the layers without a state, too.")] = False,
    as_json: Json = False,
) -> None:
    """Prune one matrix at a time, without fine-tuning, and see what it costs.

    Scores are accuracies on the training sequences, so that the test sequences stay unseen.
    [bold]sparsegate allocate[/] chooses patterns by the result.

    Example: [bold]sparsegate sensitivity build/network.safetensors --pattern 1:4 --pattern 1:8 --out build/sensitivity.json[/]
    """
    one_thread()
    from sparsegate import training
    from sparsegate.compress import sensitivity as sensing
    from sparsegate.network import Network
    from sparsegate.quantize import quantize

    model = Network.load(network)
    dataset = open_data(data, model.inputs)
    check_classes(dataset, model.outputs)
    x, lengths, y = dataset.x_train, dataset.length_train, dataset.y_train

    def score(trial: Network) -> float:
        return training.accuracy(quantize(trial, x, lengths) if golden else trial, x, lengths, y)

    with console.task("scan") as task:
        left = TimeLeft()

        def progress(done: int, total: int, what: str) -> None:
            task.at(done, total)
            task.say(f"{what}, {done} of {total} done{left(done, total)}")

        try:
            scan = sensing.scan(
                model,
                score,
                pattern or PATTERNS,
                x,
                lengths,
                progress,
                method="compensated" if compensated else "magnitude",
                heads=heads,
                path=out,
            )
        except KeyboardInterrupt:
            console.note(f"{out} keeps what has been measured; the same command goes on from there")
            raise
    result = {"file": str(out), **scan.as_json()}
    if as_json:
        console.emit(result, True, "", ())
        return
    rows = []
    for layer, key in scan.matrices:
        found = scan.find(layer, key)
        losses = [f"{100 * (scan.score - found[each].score) + 0.0:.2f}" for each in scan.patterns]
        rows.append([f"{layer} W{key}", *losses])
    console.stdout().print(console.table("accuracy lost", ("matrix", *map(str, scan.patterns)), rows))
    console.note(f"in points of {percent(scan.score)} on the training sequences; written to {out}")
