"""What the documentation shows is true: its Python runs, and its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")})
SHOWN_ONLY = "<!-- not executed -->"
"""Before a block of Python that needs what a test has not: hardware, or minutes."""


def blocks(page: Path) -> list[str]:
    """Blocks of Python on a page that are meant to run."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"({re.escape(SHOWN_ONLY)}\n)?```python\n(.*?)```", text, flags=re.DOTALL)
    return [code for mark, code in found if not mark]


# docs/python-api.md is one long script, run by tests/sw/test_docs.py
@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p) and p.name != "python-api.md"], ids=lambda page: page.name
)
def test_examples_run(page, tmp_path, monkeypatch):
    from sparsegate import cells

    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    before = dict(cells.CELLS)
    try:
        for code in blocks(page):
            exec(compile(code, str(page), "exec"), names)  # noqa: S102 (our own page)
    finally:
        cells.CELLS.clear()
        cells.CELLS.update(before)


def test_the_worked_example_is_the_file():
    page = (ROOT / "docs" / "adding-a-cell.md").read_text(encoding="utf-8")
    (shown,) = re.findall(rf"{re.escape(SHOWN_ONLY)}\n```python\n(.*?)```", page, flags=re.DOTALL)
    assert shown in (ROOT / "sw" / "sparsegate" / "cells" / "cifg.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def golden_lines(record: dict) -> list[str]:
    return [
        f"| {row['inputs']}→{row['units']} | {row['sequences']} × {row['steps']} | {row['golden']:,} | {row['torch']:,} |"
        f" {row['ratio']:.2f} | {row['torch_inference']:,} | {row['ratio_inference']:.2f} |"
        for row in record["rows"]
    ]


def rtl_lines(record: dict) -> list[str]:
    return [
        f"| {row['simulator']} | {row['driver']} | {row['cycles_per_second']:,} | {row['ratio']:,.1f} | {row['cycles']:,} |"
        f" {row['seconds']:.2f} | {row['build_seconds']:.1f} |"
        for row in record["rows"]
    ]


def scale_lines(record: dict) -> list[str]:
    cost, rtl = record["compile"], record["rtl"]
    return [
        f"| golden model, batch of 64 | 1,000 steps/s | {record['golden']['golden']:,} steps/s |",
        f"| compile: Program to Verilog and memory images | 60 s, 2 GB | {cost['seconds']} s, {cost['cpu_seconds']} s of processor"
        f" time, {cost['megabytes']:,} MB |",
        f"| Verilated RTL of the 96-PE engine, one core | 20,000 cycles/s | {rtl['cycles_per_second']:,} cycles/s |",
        f"| building that simulation | - | {rtl['build_seconds']} s |",
    ]


def test_the_record_of_the_tools_reaches_its_goals():
    """Those that the page names, on the machine that the record names: steps and cycles a second, seconds, and bytes."""
    found = json.loads((ROOT / "docs" / "benchmarks" / "scale.json").read_text(encoding="utf-8"))
    assert (found["compile"]["rows"], found["compile"]["groups"], found["golden"]["units"]) == (32, 3, 1024)
    assert found["golden"]["golden"] >= 1_000
    assert found["compile"]["seconds"] < 60
    assert found["compile"]["megabytes"] < 2_000
    assert found["rtl"]["cycles_per_second"] >= 20_000


@pytest.mark.parametrize(
    ("page", "record", "lines"),
    [
        ("benchmarks/README.md", "golden", golden_lines),
        ("benchmarks/README.md", "rtl", rtl_lines),
        ("performance.md", "scale", scale_lines),
    ],
)
def test_tables_are_those_of_the_records(page, record, lines):
    """Each line of a table, and the processor that it was measured on."""
    found = json.loads((ROOT / "docs" / "benchmarks" / f"{record}.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for line in lines(found):
        assert line in text
    assert found.get("processor", "") in text  # an earlier record names none
