"""The page of docs/benchmarks that shows accuracy.json: one table a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "pattern",
    "bits",
    "kept",
    "smaller: weights, model",
    "float",
    "pruned",
    "golden",
    "loss",
    "skipped",
    "Θ",
    "skipped at Θ",
    "golden at Θ",
    "loss by Θ",
)

HEAD = """# Accuracy after compression

Made by `make bench-accuracy` (`sparsegate bench accuracy --out docs/benchmarks/accuracy.json`), which writes `accuracy.json` and
this page. One part in minutes: `make bench-accuracy TASK=vowels SEEDS=1`.

- **float**: the baseline in float64. **pruned**: after pruning and fine-tuning, in float64. **golden**: the bit-exact integer
  model, on the whole test part. ± is half of the distance between the largest and the smallest seed.
- **loss**: by how much golden is worse than float: points of a share, per cent of any other figure. Negative: better.
- **kept**: nonzero weights in the matrices of the recurrent layers.
- **smaller**: 32-bit float weights of the dense network over what is stored, indices counted in the encoding that was published
  with the pattern; of the recurrent matrices, and of the whole model with head and biases.
- **skipped**: columns that the delta engine does not compute at Θ = 0, each counted by its stored weights, on 100 test sequences.
  **Θ** is the largest threshold, in LSBs and common to all vectors, up to which none costs more than 0.3 (points or per cent) on
  validation data; mean over seeds.
- **loss by Θ**: by how much golden at Θ is worse than golden, on the test part. Θ is chosen on other data, and may cost more here
  than the 0.3 that it was allowed there.
- Of a row that was trained at a Θ, *golden* is at that Θ, and *skipped* says in brackets what it skips there.
"""

EARLIER = """Rows of {} are of an earlier rule, all or in part: their Θ is the largest of all that cost at most 0.3 on the first
300 validation sequences (of speakers 0.3 points of the cosine), even where a smaller one cost more. What
those that were trained at a Θ skip at Θ = 0 was not measured (–).
"""
"""Of rows that do not say what each Θ cost on validation data."""


def page(record: Mapping[str, Any]) -> str:
    """The whole page of a record."""
    parts = [HEAD]
    earlier = dict.fromkeys(row["task"] for row in record.get("rows", []) if "validation" not in row)
    if earlier:
        parts.append(EARLIER.format(", ".join(earlier)))
    means = record["means"]
    for task in dict.fromkeys(row["task"] for row in means):
        rows = [row for row in means if row["task"] == task]
        seeds = sorted({row["seeds"] for row in rows})
        about = record.get("tasks", {}).get(task, "")
        count = f"{seeds[-1]} seeds" if seeds[-1] > 1 else "one seed"
        elsewhere = [cells(row)[0] for row in rows if row.get("devices", ["cpu"]) != ["cpu"]]
        trained = f" Trained on a GPU (`--device`), all or in part: {', '.join(elsewhere)}." if elsewhere else ""
        count += " unless said otherwise" * (len(seeds) > 1)
        parts.append(f"## {task}\n\n{about}.\n\nFigure: {rows[0]['measure']}; {count}.{trained}\n")
        lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
        for row in rows:
            name, *others = cells(row)
            fewer = f" ({row['seeds']} of {seeds[-1]} seeds)" if row["seeds"] < seeds[-1] else ""
            lines.append(f"| {' | '.join([name + fewer, *others])} |")
        parts.append("\n".join(lines) + "\n")
        if any("gates_near_0_or_1" in row for row in rows):
            parts.append(_gates(rows))
    return "\n".join(parts)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row as texts."""
    main, case = row["measure"], row["case"]
    name = case["pattern"] + (f", {row['method']}" if row["method"] else "")
    bits = (
        f"{case['bits']}" if case["activation_bits"] == 8 else f"{case['bits']} ({case['activation_bits']} activations)"
    )
    golden = _figure(main, row["golden"][main], row["golden_spread"])
    others = [f"{name} {_figure(name, value)}" for name, value in row["golden"].items() if name != main]
    return (
        name,
        bits,
        f"{100 * row['density']:.2f} %",
        f"{row['compression_weights']:.1f}, {row['compression_model']:.1f}",
        _figure(main, row["float"][main]),
        _figure(main, row["pruned"][main], row["pruned_spread"]),
        ", ".join([golden, *others]),
        _signed(row["loss"]),
        _skipped(row),
        f"{row['theta']:.3g}",
        f"{100 * row['skipped_at_theta']:.1f} %",
        _figure(main, row["golden_at_theta"][main]),
        _signed(row["loss_by_theta"]),
    )


def _signed(loss: float) -> str:
    return f"{round(loss, 2) + 0.0:+.2f}"  # no -0.00


def _skipped(row: Mapping[str, Any]) -> str:
    """Share of columns at Θ = 0, and at the Θ of its training."""
    text = "–" if row["skipped"] is None else f"{100 * row['skipped']:.1f} %"
    own = row["case"]["theta"]
    return text + (f" ({100 * row['skipped_as_trained']:.1f} % at Θ = {own})" if own else "")


def _figure(name: str, value: float, spread: float | None = None) -> str:
    """A figure in the unit of its name, and half of its spread."""
    share = name not in ("rmse", "bits_per_character", "cosine")
    digits, scale = (2, 100) if share else (4, 1) if name == "cosine" else (3, 1)
    text = f"{scale * value:.{digits}f}" + (f" ± {scale * spread / 2:.{digits}f}" if spread else "")
    return text + " %" if share else text


def _gates(rows: list[Mapping[str, Any]]) -> str:
    """Are gates near 0 and 1, and does that freeze the hidden state?"""
    chosen = [row for row in rows if row["case"]["gates"] == "g2"]
    pairs = [(_twin(row, rows), row) for row in chosen]
    lines = [
        "Gates within 0.1 of 0 or 1 on test data, and the columns that are skipped:",
        "",
        "| | gates i, f, o | skipped at Θ = 0 | Θ | skipped at Θ |",
        "|---|---|---|---|---|",
    ]
    for plain, noisy in pairs:
        for row in filter(None, (plain, noisy)):
            near = ", ".join(f"{100 * row['gates_near_0_or_1'].get(name, 0):.1f} %" for name in "ifo")
            what = f"{row['case']['pattern']}, {row['case']['bits']} bits, {row['case']['gates']}"
            lines.append(
                f"| {what} | {near} | {100 * row['skipped']:.1f} % | {row['theta']:.3g} | {100 * row['skipped_at_theta']:.1f} % |"
            )
    return "\n".join(lines) + "\n" if pairs else ""


def _twin(row: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The same case with plain gates."""
    wanted = row["case"] | {"gates": "plain"}
    return next((other for other in rows if other["case"] == wanted), None)
