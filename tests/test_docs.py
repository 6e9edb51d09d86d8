"""What the documentation shows is true: its Python runs, and its links lead somewhere."""

from __future__ import annotations

import importlib
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


# Keras, which one page uses to make its example, has not followed NumPy 2 everywhere
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# docs/reference/python-api.md is one long script, run by test_python_api.py
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
    page = (ROOT / "docs" / "how-to" / "adding-a-cell.md").read_text(encoding="utf-8")
    (shown,) = re.findall(rf"{re.escape(SHOWN_ONLY)}\n```python\n(.*?)```", page, flags=re.DOTALL)
    assert shown in (ROOT / "sw" / "sparsegate" / "cells" / "cifg.py").read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without blocks of code."""
    return re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as repository hosts and the site make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{page.name} links to {target}#{anchor}, which is no heading there"


def test_every_page_is_on_the_site():
    listed = set()
    for page in (ROOT / "docs").rglob("*.md"):
        for tree in re.findall(
            r"^```{toctree}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        ):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    assert listed == {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "index.md"}


WORDS = 25
"""Most words of a sentence on a page that a person reads from top to bottom."""
READ = [ROOT / "README.md", *sorted(ROOT.glob("docs/tutorial/*.md")), *sorted(ROOT.glob("docs/explanation/*.md"))]
READ += [ROOT / "docs" / "index.md", ROOT / "docs" / "how-to" / "adding-a-family.md"]
READ += [ROOT / "docs" / "how-to" / f"{name}.md" for name in ("keras-model", "regression-task", "fit-an-ice40")]
READ += [ROOT / "docs" / "how-to" / f"{name}.md" for name in ("patch-weights", "read-a-trace")]
OLDER = {"architecture.md"}
"""Of these pages only what stands before "A cell is written once" is held to it."""


def sentences(page: Path) -> list[str]:
    """Sentences of paragraphs and list items: no headings, tables, indented commands or code."""
    text = prose(page)
    if page.name in OLDER:
        text = text[: text.index("## A cell is written once")]
    kept = [line for line in text.splitlines() if not re.match(r"#|\||    |!\[|<!--", line)]
    paragraphs = re.split(r"\n\s*\n|\n(?=(?:- |\d+\. ))", "\n".join(kept))
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split())) for paragraph in paragraphs]
    return [sentence for paragraph in plain for sentence in re.split(r"(?<=[.:;?!])\s", paragraph) if sentence]


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_sentences_are_short(page):
    long = [sentence for sentence in sentences(page) if len(sentence.split()) > WORDS]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_python_exist(page):
    """Dotted names of ours in prose and code: modules, or what is in them."""
    if page.name == "CHANGELOG.md":  # tells of names that are gone
        return
    for name in sorted(
        set(re.findall(r"\bsparsegate(?:_app|_hw|_sim)?(?:\.[a-zA-Z_]\w*)+", page.read_text(encoding="utf-8")))
    ):
        parts = name.split(".")
        for at in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:at]))
                break
            except ModuleNotFoundError:
                continue
        for part in parts[at:]:
            assert hasattr(found, part), f"{page.name} names {name}, which does not exist"
            found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    for name in re.findall(r"\b(?:sw|hw|sim|tests)/[\w./-]+\.(?:py|v|cpp|json)\b", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}, which does not exist"
    for name in re.findall(r"`([\w/-]+\.(?:py|cpp|v))`", page.read_text(encoding="utf-8")):
        found = (any((ROOT / root).rglob(name)) for root in ("sw", "hw", "sim", "tests", "docs"))
        assert (ROOT / name).exists() or any(found) or name in WRITTEN, f"{page.name} names {name}, which is nowhere"


WRITTEN = {"engine.v"}
"""Files that a run writes."""


def test_every_command_occurs_in_prose():
    from sparsegate_app.cli.document import commands

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "cli.md")
    missing = [words for words in commands() if words and not re.search(rf"\b{re.escape(' '.join(words))}\b", text)]
    assert missing == []


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
        ("notes/2026-11-30-speed-of-the-tools.md", "scale", scale_lines),
    ],
)
def test_tables_are_those_of_the_records(page, record, lines):
    """Each line of a table, and the processor that it was measured on."""
    found = json.loads((ROOT / "docs" / "benchmarks" / f"{record}.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for line in lines(found):
        assert line in text
    assert found.get("processor", "") in text  # an earlier record names none
