"""The benchmark of whole workloads: what it counts, its record, its pages, and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsegate import artefact, estimate, golden, protocol, quantize
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.errors import MissingData, SparseGateError, ToolError
from sparsegate.fpga.devices import device
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate_app.bench import area, figures, performance, performance_table, real, roofline, tools, workloads
from sparsegate_app.bench.performance import Effort
from sparsegate_app.bench.workloads import Work, Workload
from sparsegate_app.cli import app

ROOT = Path(__file__).parents[3]
RECORD = ROOT / "docs" / "benchmarks" / "performance.json"
POINTS = RECORD.with_name("synthesis.json")
CONFIG = HardwareConfig(rows=8, groups=2)


def program(seed: int = 1) -> Program:
    shapes = [Shape("lstm", 20, NM(1, 8), NM(1, 8)), Shape("linear", 3, when="last")]
    x = np.random.default_rng(seed).normal(size=(2, 6, 5))
    return quantize.quantize(synthetic.network(5, shapes, seed=seed), x)


def small(folder: Path, work: Path) -> Work:
    made = program()
    raw = synthetic.stimulus(made.input_format, 2, 6, 5, seed=3)
    return Work(made, raw, np.array([6, 4]), "random weights", "random")


WORKLOAD = Workload("small", "LSTM 5→20 at 1:8", "LFE5U-25F", CONFIG, small)


def row(
    workload: Workload = WORKLOAD,
    before: dict | None = None,
    frames: int = 6,
    synthesize: Callable | None = None,
    simulate: Callable | None = None,
    count: Callable | None = None,
    form: Callable | None = None,
) -> dict:
    """A row of the tools that are given, each in the place of the real one; nothing is run of the others."""
    given = {"place": synthesize, "simulate": simulate, "cells": count, "form": form}
    effort = Effort(frames, rtl=simulate is not None, place=synthesize is not None, cpu=False, form=form is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "versions", lambda: {"verilator": "5"})
        for name, tool in given.items():
            if tool is not None:
                patch.setattr(tools, name, tool)
        return performance.measure(workload, Path(), Path(), effort, before, lambda text: None)


def test_nonzeros_are_those_of_the_pattern_and_dense_macs_those_of_the_shape():
    lstm, head = program().phases
    # blocks of 8, 8 and 4 units, an entry each, for 4 gates and every column; a short block still holds its entry
    assert figures.nonzeros(lstm) == 4 * 3 * (5 + 20)
    assert figures.dense(lstm) == 4 * 20 * 25
    assert figures.nonzeros(head) == figures.dense(head) == 60


@pytest.mark.parametrize("share", [1.0, 0.1, 0.0])
def test_columns_that_are_drawn_are_those_that_the_cycle_model_counts(share):
    made = program()
    trace, layout = figures.drawn(made, 400, share), Layout(made, CONFIG)
    found = cycles.predict(trace, layout)
    head = 20  # its columns are all sent, once
    seen = 400 * 25
    assert found.columns_seen == seen + head
    sent = (found.columns_sent - head) / seen
    # h of the last step drives no step
    assert sent == pytest.approx(share * (seen - 20) / seen, abs=0.012)
    again = cycles.predict(figures.drawn(made, 400, share), layout)
    assert (again.end == found.end).all()


def test_nothing_skipped_is_a_run_in_which_every_column_moves():
    """Real inputs and hidden states that all move, in the middle of a sequence: the same cycles a step, to the cycle."""
    made = program()
    layout = Layout(made, CONFIG)
    raw = np.tile(np.array([[1], [2]]), (4, 5)).reshape(1, 8, 5)
    trace = golden.run(made, raw)
    streams = tuple(replace(s, sent=np.ones_like(s.sent)) for s in trace.passes[0].streams)
    forced = replace(trace, passes=(replace(trace.passes[0], streams=streams),))
    end = cycles.predict(forced, layout).end[0]
    found = figures.full(made, layout)
    assert found["cycles_per_step"] == end[4] - end[3] == end[5] - end[4]
    assert found["occupancy_total"] == round(300 / (16 * found["cycles_per_step"]), 5)
    assert found["columns_skipped"] == 0


def test_a_step_by_itself_is_what_a_board_runs():
    """Frames apart, and the bytes of a request and its reply: what the host's end sends and takes."""
    made = program()
    layout = Layout(made, CONFIG)
    found = row()["cases"]["real"]
    trace = golden.run(made, small(Path(), Path()).raw, np.array([6, 4]))
    busy = cycles.predict(trace, layout, apart=True).busy
    assert found["alone"] == round(float(np.concatenate([busy[0, :6], busy[1, :4]]).mean()), 3)
    assert found["alone"] < found["latency"]
    inside = 5 * protocol.value_bytes(made.input_format.width)
    frame = 2 + 4 + 2  # sync, header, CRC
    assert figures.uart_bytes(made, False) == (frame + 1 + inside) + (frame + 5)
    assert figures.uart_bytes(made, True) - figures.uart_bytes(made, False) == 3 * protocol.value_bytes(
        made.output_format.width
    )


def test_imbalance_of_groups():
    made = program()
    layout = Layout(made, CONFIG)
    assert cycles.predict(figures.drawn(made, 20, 1.0), layout).imbalance < 1.1
    assert cycles.predict(figures.drawn(made, 20, 0.1), layout).imbalance > 1.2
    assert cycles.predict(figures.drawn(made, 20, 0.1), Layout(made, HardwareConfig(8))).imbalance == 1
    assert cycles.predict(figures.drawn(made, 20, 0.0), layout).imbalance == 1


def test_a_row_of_cycles_alone():
    found = row()
    assert found == row()
    assert (found["nnz"], found["dense_macs"], found["pes"]) == (300, 2000, 16)
    assert found["cycles_per_step"] == found["cases"]["nothing_skipped"]["cycles_per_step"]
    assert [found[key] for key in (*performance.AREA, "us_per_step", "gops_sparse", "rtl_mismatches")] == [None] * 8
    assert found["cases"]["real"]["columns_skipped"] > 0.1
    bounds = found["limits"]["cycles"]
    assert bounds["multipliers"] <= bounds["array"] < found["cycles_per_step"]
    assert (bounds["input"], bounds["output"]) == (5, 0)  # the head answers at the end


SIMULATED = SimpleNamespace(
    simulator="verilator", steps=3, values_compared=60, mismatches=0, cycle_mismatches=0, counter_mismatches=[]
)
vars(SIMULATED).update(cycles=1000, build_seconds=1.0, step_start=np.array([[7, 9]]), step_end=np.array([[8, 40]]))
SIMULATED.group_beats = np.array([[3, 1], [2, 2]])

AREA = {"fmax_mhz": 100.0, "luts": 1, "ffs": 2, "bram": 3, "dsp": 4, "how": "placed", "tools": {"yosys": "1"}}
AREA |= {
    "critical_path": ["7.00 ns a", "3.00 ns b"],
    "seed": 1,
    "tried": [[1, 100.0], [2, None]],
    "router": "router1",
    "untimed": "",
    "frequency_mhz": 90.0,
    "stages": {"yosys": 12.3, "nextpnr": 4567.8},
    "form": "abc",
}


def test_clock_and_area():
    asked = []

    def place(made: Program, workload: workloads.Workload, *_: object) -> dict:
        asked.append((made.digest, workload.config, workload.device))
        return AREA

    placed = row(synthesize=place)
    assert asked == [(program().digest, CONFIG, "LFE5U-25F")]
    assert placed["us_per_step"] == round(placed["cycles_per_step"] / 100, 4)
    assert placed["gops_sparse"] == pytest.approx(2 * 300 / placed["us_per_step"] / 1e3, abs=0.006)
    assert placed["gops_dense_equivalent"] == pytest.approx(2 * 2000 / placed["us_per_step"] / 1e3, abs=0.006)
    # without place and route they stand where shape, array and device are the same, and nowhere else
    assert row(before=placed) == placed
    for other in ({"device": "LFE5U-85F"}, {"hardware": {}}, {"digests": {"shape": ""}}):
        assert row(before=placed | other)["fmax_mhz"] is None
    # a row from before a field of the array was there has its default
    older = {key: value for key, value in placed["hardware"].items() if key != "block_banks"}
    assert row(before=placed | {"hardware": older}) == placed
    assert row(before=placed | {"hardware": older | {"block_banks": 1}})["fmax_mhz"] is None
    assert placed["report"] == {key: AREA[key] for key in performance.REPORT}
    assert row(synthesize=place, simulate=lambda *given: SIMULATED)["tools"] == {"yosys": "1", "verilator": "5"}


def test_a_clock_of_other_hardware_says_so():
    placed = row(synthesize=lambda *given: AREA)
    assert not performance.outdated(placed)
    assert row(before=placed, form=lambda *given: "abc") == placed
    later = row(before=placed, form=lambda *given: "abd")
    assert performance.outdated(later)
    assert later["fmax_mhz"] == placed["fmax_mhz"]
    said = f"{placed['us_how']}; the hardware has changed since, and was not placed and routed again"
    assert later["us_how"] == said
    assert f"- Clock: {said}.\n" in performance_table.page(performance.merged(None, [later], ["small"]))
    # where nothing is known of what was placed, it is not taken for the same
    assert performance.outdated(row(before=placed | {"report": None}, form=lambda *given: "abc"))
    # and what is placed anew is new
    assert row(before=later, synthesize=lambda *given: AREA, form=lambda *given: "abc") == placed


PLACED = AREA | {"device": "LFE5U-25F", "board": None, "speed": "6", "multipliers": "dsp"}


def test_cells_are_counted_where_others_count_theirs():
    given = {"synthesize": lambda *given: AREA, "count": lambda *given: {"DP16KD": 3, "$scopeinfo": 2, "LUT4": 1489}}
    assert row(**given)["engine_cells"] is None
    alone = replace(WORKLOAD, cell=True, published=(workloads.ELASTIC,))
    found = row(alone, **given)
    assert row(alone, before=found) == found
    page = performance_table.page(performance.merged(None, [found], ["small"]))
    assert "in Yosys' cells: 3 DP16KD, 1,489 LUT4.\n" in page
    beside = page.partition("## Beside what others report")[2].partition("## Every case")[0]
    assert beside.count("GOPS dense-equivalent; the engine alone 3 DP16KD, 1,489 LUT4 | elastic-ai.creator 0.68 |") == 1
    assert "- Longest path: 7.00 ns a; 3.00 ns b.\n" in page
    assert "- Placements: seed 1 100 MHz, seed 2 has none; Yosys 12 s, nextpnr 4,568 s.\n" in page


def test_a_clock_that_is_a_bound_says_so():
    """Where nextpnr has no delays for some cells a figure of time is at best what it says."""
    placed = row(synthesize=lambda *given: AREA)
    bound = row(synthesize=lambda *given: AREA | {"untimed": "block RAM"})
    marks = {}
    for one in (placed, bound):
        record = performance.merged(None, [one], ["small"]) | {"laws": []}
        text = performance_table.page(record).partition("- Cases.")[2] + roofline.page(record)
        marks[one["report"]["untimed"]] = text.count("≤ "), text.count("≥ ")
        assert ("reaches the most" in text) == (one is placed)
    shown = {
        key: dict(zip(performance_table.SHORT, performance_table.short(one), strict=True))
        for key, one in (("", placed), ("≤ ", bound))
    }
    for most, cells in shown.items():
        assert cells["GOPS"] == f"{most}{placed['gops_dense_equivalent']:,.1f}"
        assert cells["MHz"] == f"{most}100.0"
        assert cells["occupancy"] == f"{100 * placed['occupancy_total']:.1f} %"
    # clock and GOPS of the first table; GOPS beside others; of each case GOPS, of a PE, and in the roofline of all, of a
    # multiplier, of ESE's; and times: one, one, two of each case, and alone
    others = len(WORKLOAD.published)
    assert marks == {"": (0, 0), "block RAM": (2 + others + 3 * 5, 1 + others + 3 * 2 + 1)}


def test_what_rtl_found_is_summed():
    found = SimpleNamespace(**vars(SIMULATED) | {"mismatches": 1, "cycle_mismatches": 2, "counter_mismatches": ["x"]})
    given = []
    measured = row(frames=3, simulate=lambda made, config, raw: given.append(raw.shape) or found)
    assert given == [(1, 3, 5), (1, performance.QUIET_STEPS, 5)]
    assert measured["rtl_mismatches"] == 8
    assert measured["rtl"]["cycles"] == 1000
    assert measured["rtl_quieted"]["cycles_counted"] == 33
    assert measured["rtl_quieted"]["group_imbalance_counted"] == 1.25
    assert measured["rtl_quieted"]["longest_beats_counted"] == 5
    page = performance_table.page(performance.merged(None, [measured], ["small"]))
    assert f"{measured['rtl_quieted']['longest_beats']:,} predicted and 5 counted." in page


@pytest.mark.verilator
def test_rtl_agrees():
    """With all columns and with a tenth of them, which the groups do not share evenly."""
    from sparsegate_sim.simulate import simulate

    found = row(frames=3, simulate=simulate)
    assert found["rtl_mismatches"] == 0
    quiet = found["rtl_quieted"]
    assert quiet["cycles_counted"] == quiet["cycles_predicted"]
    assert quiet["steps"] == performance.QUIET_STEPS
    assert 0.8 < quiet["columns_skipped"] < 0.97
    assert quiet["group_imbalance"] > 1.1
    assert quiet["group_imbalance_counted"] == quiet["group_imbalance"]
    assert quiet["longest_beats_counted"] == quiet["longest_beats"] > 0
    assert quiet["imbalance_cycles"] > 0


def test_pages_say_what_the_record_says():
    record = performance.merged(None, [row(synthesize=lambda *given: AREA)], ["small"])
    record["laws"] = roofline.laws(
        [(16, NM(1, 8), 4, 1), (32, NM(1, 8), 4, 1), (32, NM(1, 4), 8, 2), (16, NM(1, 4), 4, 2)]
    )
    page = performance_table.page(record)
    assert "| small | LFE5U-25F | 16 | 300 |" in page
    assert "nine tenths unchanged" in page
    *_, worst = roofline.fit(record["laws"])
    assert worst < 0.1
    text = roofline.page(record)
    name, limit = roofline.bound(record["workloads"][0], "nothing_skipped")
    assert (name, limit) == ("multipliers", record["workloads"][0]["limits"]["cycles"]["array"])
    assert f"| {record['workloads'][0]['cycles_per_step'] / limit:.3f} |" in text
    # 4,000 operations a step at 100 MHz, on 4 multipliers
    cases = record["workloads"][0]["cases"]
    taken, gops = (cases["nothing_skipped"][key] for key in ("cycles_per_step", "gops_dense_equivalent"))
    assert gops == pytest.approx(4 * 100 / taken, abs=0.006)
    shown = f"| {gops:,.1f} | {gops / 4:.2f} | {4 / taken:.3f} | {100 * gops / 2520:.1f} % |"
    assert f"| small | LFE5U-25F | nothing skipped {shown}" in text
    real_gops = cases["real"]["gops_dense_equivalent"]
    assert f"On real inputs `small` reaches the most: {100 * real_gops / 2520:.1f} % of ESE's figure." in text
    assert "of the trained networks" not in text  # the only one is random
    taught = row(synthesize=lambda *given: AREA | {"fmax_mhz": 50.0}) | {"name": "taught", "network": "trained here"}
    both = roofline.page(record | {"workloads": [*record["workloads"], taught]})
    assert f"On real inputs `small` reaches the most: {100 * real_gops / 2520:.1f} % of ESE's figure." in both
    half = taught["cases"]["real"]["gops_dense_equivalent"]
    said = (
        f"On real inputs `taught` reaches the most of the trained networks: {100 * half / 2520:.1f} % of ESE's figure."
    )
    assert said in both
    # a step of one phase has no read-out to fill, and no larger array was asked for
    assert "What filling the read-out wins" not in text
    assert "Larger than the device" not in text
    made = record["laws"][0]["sizes"]
    law = estimate.load_laws()["ecp5"]["luts"]
    assert f"| {round(sum(made[name] * value for name, value in law.items())):,} |" in text
    # and of a row that is not placed and routed, what needs no clock
    cold = roofline.page(record | {"workloads": [row()]})
    assert f"| small | LFE5U-25F | nothing skipped | - | - | {4 / taken:.3f} | - |" in cold
    assert "reaches the most" not in cold


def test_a_device_without_multipliers_has_a_row(monkeypatch):
    """In which what is divided by them is a dash."""
    bare = replace(WORKLOAD, device="iCE40HX8K", config=HardwareConfig(rows=4))
    found = row(bare, synthesize=lambda *given: AREA | {"dsp": 0})
    text = roofline.page(performance.merged(None, [found], ["small"]))
    chip = re.search(r"^\| small \|(?: [\d,]+ \|){5} (\S+) \|", text, re.M)
    assert chip is not None
    assert chip[1] == "-"
    assert re.search(r"^\| small \| iCE40HX8K \| nothing skipped \| [\d.]+ \| - \| [\d.]+ \|", text, re.M)
    made = estimate.point(
        program(), bare.config, PLACED | {"device": "iCE40HX8K", "multipliers": "logic", "dsp": 0}, "x"
    )
    assert " | 0 / 0 | " in area.estimates([made], [])


def test_what_the_memories_of_weights_give_a_cycle_is_a_limit():
    """Of an iCE40 UP5K's four SPRAMs a word each, which bounds it more than its multipliers do; of block RAM 16 or 36 bits."""
    rows = {each["name"]: each for each in performance.read(RECORD)["workloads"]}
    text = roofline.page({"workloads": list(rows.values())}).partition("## Nothing skipped")[2].partition("\n## ")[0]
    found = {
        name: re.search(rf"^\| {name} \|(?: [\d,]+ \|){{5}} (\S+) \| (\S+) \|", text, re.M).groups() for name in rows
    }
    bits = {"sprams": 4 * 16, "vowels": 30 * 16, "vowels-hx8k": 32 * 16, "keywords-gw2a": 46 * 36, "spartus": 208 * 36}
    for name, a_cycle in bits.items():
        held = rows[name]["nnz"] * rows[name]["limits"]["entry_bits"]
        assert found[name][1] == f"{held / a_cycle:,.0f}"
    assert found["sprams"] == ("4,200", "5,775")


def test_ese_s_figures_are_the_published_ones():
    assert f"{roofline.ESE_GOPS:,} GOPS dense-equivalent" in workloads.ESE.figures
    assert f"{roofline.ESE_PES} PEs, {roofline.ESE_MHZ} MHz" in workloads.ESE.figures


def test_what_filling_the_read_out_wins():
    """Two layers, each of which is dispatched while the other is read out, if there are two banks."""
    shapes = [Shape("lstm", 32, NM(1, 4), NM(1, 4)) for _ in range(2)]
    x = np.random.default_rng(1).normal(size=(2, 6, 5))
    made = quantize.quantize(synthetic.network(5, shapes, seed=1), x)
    one, two = figures.overlap(made, CONFIG)
    for found, banks in ((one, 1), (two, 2)):
        wanted = figures.full(made, Layout(made, replace(CONFIG, banks=banks)))
        assert found["banks"] == banks
        assert all(found[key] == wanted[key] for key in ("cycles_per_step", "occupancy_matvec", "occupancy_total"))
    assert one["cycles_per_step"] > two["cycles_per_step"]
    assert [found["built"] for found in (one, two)] == [False, True]
    assert [found["built"] for found in figures.overlap(made, replace(CONFIG, banks=1))] == [True, False]
    assert figures.overlap(program(), CONFIG) == []  # its head runs once, at the end
    page = roofline.page({"workloads": [row() | {"name": "stack", "overlap": [one, two]}, row()]})
    assert f"| stack | 1 | {one['cycles_per_step']:,.1f} | {100 * one['occupancy_total']:.1f} % | - |" in page
    saved = 100 * (1 - two["cycles_per_step"] / one["cycles_per_step"])
    occupancy = 100 * two["occupancy_total"]
    assert f"| stack | 2, as built | {two['cycles_per_step']:,.1f} | {occupancy:.1f} % | {saved:.1f} % |" in page


def test_larger_arrays_are_counted_and_estimated():
    made, large = program(), HardwareConfig(32, 3)
    wanted = replace(WORKLOAD, stretch=(large,))
    measured = row(wanted)
    (other,) = measured["stretch"]
    assert other["cycles_per_step"] == figures.full(made, Layout(made, large))["cycles_per_step"]
    assert other["sizes"] == estimate.sizes(Layout(made, large), device("LFE5U-25F"))
    assert other["sizes"]["logic"] > 0
    found = estimate.estimate(made, large, "LFE5U-25F")
    shown = area.beyond([measured, {"name": "older", "device": "LFE5U-25F"}])
    shares = (f"{found.dsp} of 28", f"{found.bram} of 56", f"{found.luts:,} of 24,288", f"{found.ffs:,} of 24,288")
    assert f"| small, LFE5U-25F | 32 × 3 | 8 | {other['cycles_per_step']:,.1f} | {' | '.join(shares)} |" in shown
    assert "By that none of 1 would fit: by the law `small`" in shown
    roomy = measured | {"device": "LFE5U-85F"}
    assert "By that 1 of 1 would fit" in area.beyond([roomy])
    full = other | {"sizes": other["sizes"] | {"bram": 209}}
    assert "By that none of 1 would fit" in area.beyond([roomy | {"stretch": [full]}])
    # what was packed counts instead of the law
    packed = {"fmax_mhz": None, "luts": 83_641, "ffs": 5, "bram": 6, "dsp": 7} | {
        "command": "sparsegate bench area small"
    }
    array = other["hardware"]
    shown = area.beyond([roomy], [packed | {"hardware": array | {"lanes": 4}}, packed | {"hardware": array}])
    assert f" | {found.dsp} of 156 (7) | {found.bram} of 208 (6) | {found.luts:,} of 83,640 (83,641) | " in shown
    assert "By that none of 1 would fit" in shown
    assert "(83,641)" not in area.beyond([roomy], [packed | {"hardware": array | {"lanes": 4}}])
    assert area.beyond([measured | {"stretch": []}]) == ""


def test_estimates_stand_beside_what_was_measured(monkeypatch):
    points = estimate.read_points(POINTS)
    shown = area.estimates(points, ["spartus", "ese"])
    designs = re.findall(r"^\| `(.*?)`, ", shown, re.M)
    assert designs[:2] == ["spartus", "ese"]
    placed = [one for one in points if one["fmax_mhz"] is not None]
    assert sorted(designs[: len(placed)]) == sorted(one["command"].removeprefix("sparsegate bench ") for one in placed)
    assert len(set(designs)) == len(points)
    arrays = sorted(f"{one['hardware']['rows']} × {one['hardware']['groups']}" for one in points if one not in placed)
    assert sorted(re.search(r"\d+ × \d+", design)[0] for design in designs[len(placed) :]) == arrays
    (ese,) = [one for one in points if one["command"] == "sparsegate bench ese"]
    law = estimate.load_laws()["ecp5"]["luts"]
    luts = round(sum(ese["sizes"][name] * value for name, value in law.items()))
    error = 100 * (luts / ese["luts"] - 1)
    assert f"| `ese`, LFE5U-85F | {luts:,} / {ese['luts']:,} ({error:+.1f} %) | " in shown
    assert f" | {ese['sizes']['bram']} / {ese['bram']} (+0.0 %) | " in shown
    (small,) = [one for one in points if one["command"] == "sparsegate bench vowels"]
    grown = area.laws(points)
    assert f"{ese['luts']:,}, {luts:,}, {error:+.1f} % |" in grown
    _, ecp5, ice40 = re.split(r"^(?:ECP5|iCE40), at", grown, flags=re.M)
    assert "vowels" not in ecp5
    for name, inside in (("| vowels |", (False, True)), ("| ese |", (True, False)), ("gw2a", (False, False))):
        assert (name in ecp5, name in ice40) == inside
    (gowin,) = [one for one in points if one["command"] == "sparsegate bench keywords-gw2a"]
    assert f"| `keywords-gw2a`, GW2A-18 | no law / {gowin['luts']:,} | " in shown
    monkeypatch.setitem(estimate.errors.__globals__, "load_laws", lambda: {"ecp5": {"luts": law}})
    shown = area.estimates(points, ["spartus", "ese"])
    assert f"| `vowels`, iCE40UP5K | no law / {small['luts']:,} | " in shown


@pytest.mark.skipif(not RECORD.exists(), reason="there is no committed record yet")
def test_the_committed_points_are_those_of_the_committed_rows():
    """A design that is placed anew gives both."""
    points = {one["command"]: one for one in estimate.read_points(POINTS)}
    placed = [row for row in performance.read(RECORD)["workloads"] if row["fmax_mhz"] is not None]
    assert placed
    for row in placed:
        point = points[f"sparsegate bench {row['name']}"]
        assert {key: point[key] for key in performance.AREA} == {key: row[key] for key in performance.AREA}


def test_rows_that_are_not_measured_stay():
    before = {"definition": "", "workloads": [{"name": "b", "n": 1}, {"name": "a", "n": 1}], "laws": [1]}
    after = performance.merged(before, [{"name": "b", "n": 2}], ["a", "b", "c"])
    assert after["workloads"] == [{"name": "a", "n": 1}, {"name": "b", "n": 2}]
    assert after["laws"] == [1]


@pytest.mark.parametrize("damage", ["device", "hardware", "field"])
def test_a_damaged_record_is_a_sentence(tmp_path, damage):
    path = tmp_path / "performance.json"
    made = row()
    if damage == "field":
        made["hardware"] = {"rows": 4, "columns": 1}
    else:
        del made[damage]
    artefact.write_json(path, performance.merged(None, [made], ["small"]))
    with pytest.raises(SparseGateError, match=re.escape(str(path))):
        performance.read(path)


def test_names():
    assert [each.name for each in workloads.chosen(["peer"])] == ["peer-4", "peer-8"]
    assert [each.name for each in workloads.chosen(["keywords"])] == ["keywords"]
    assert [each.name for each in workloads.chosen(["keywords-gw2a"])] == ["keywords-gw2a"]
    assert [each.name for each in workloads.chosen([])] == list(workloads.WORKLOADS)
    with pytest.raises(
        SparseGateError, match="there is no workload 'sparta'; the workloads are vowels, vowels-hx8k, sprams"
    ):
        workloads.chosen(["sparta"])


@pytest.mark.parametrize("name", ["peer-4", "peer-8", "sprams", "spartus", "ese"])
def test_the_record_s_cycles_come_out_again(tmp_path, name):
    """Without data, on random inputs: nothing skipped and drawn columns depend on shapes and arrays alone."""
    (row,) = [each for each in performance.read(RECORD)["workloads"] if each["name"] == name]
    workload = workloads.WORKLOADS[name]
    made = workload.make(tmp_path / "none", tmp_path).program
    layout = Layout(made, workload.config)
    again = {
        "nothing_skipped": figures.full(made, layout),
        "nine_tenths_unchanged": figures.counted(figures.drawn(made, figures.STEPS, figures.TENTH), layout),
    }
    for case, found in again.items():
        assert found == {key: row["cases"][case][key] for key in found}
    assert row["nnz"] == sum(figures.nonzeros(phase) for phase in figures.every_step(layout))
    # and so do the sizes of its synthesized point, as far as they are counted today as they were then
    (point,) = [one for one in estimate.read_points(POINTS) if one["command"] == f"sparsegate bench {name}"]
    if name.startswith("peer"):  # formats of random networks follow their inputs
        assert point["sizes"] == estimate.sizes(layout, device(row["device"]))
    assert point["sizes"].keys() == estimate.sizes(layout, device(row["device"])).keys()


@pytest.mark.parametrize(("name", "estimated"), [("spartus", "25.2"), ("ese", "22.9")])
def test_the_search_finds_the_arrays_of_the_largest_rows(tmp_path, name, estimated):
    """As docs/reference/synthesis.md says, with their times. How many values leave in a cycle is not searched."""
    workload = workloads.WORKLOADS[name]
    found, *_ = estimate.fit(workload.make(tmp_path / "none", tmp_path).program, workload.device)
    (row,) = [each for each in performance.read(RECORD)["workloads"] if each["name"] == name]
    for figure in ("rows", "groups", "lanes", "block_banks", "deep"):
        assert getattr(found, figure) == row["hardware"][figure], figure
    assert (found.cycles, found.dsp, found.bram) == (row["cycles_per_step"], row["dsp"], row["bram"])
    assert f"{found.us:.1f}" == estimated
    page = (ROOT / "docs" / "reference" / "synthesis.md").read_text(encoding="utf-8")
    assert f"`{name}` {estimated} µs (routed: {row['us_per_step']:.1f})" in page


@pytest.mark.parametrize("name", ["peer-4", "peer-8"])
def test_the_record_is_of_today_s_hardware(tmp_path, name):
    """After a change of the engine 'bench --no-pnr' says which rows are of the one before."""
    from sparsegate_hw.synthesis.plan import form_digest

    (row,) = [each for each in performance.read(RECORD)["workloads"] if each["name"] == name]
    workload = workloads.WORKLOADS[name]
    made, hertz = workload.make(tmp_path / "none", tmp_path).program, workload.hertz
    assert form_digest(made, workload.config, device=workload.device, frequency_hz=hertz) == row["form"]


def test_the_record_reaches_its_marks():
    """Published sizes, and what the engine is to reach with them."""
    assert 4 * 1024 * (123 + 1024) // 16 == 293_632
    assert 4 * 1024 * (153 + 512) // 16 + 512 * 1024 // 8 == 235_776
    rows = {each["name"]: each for each in performance.read(RECORD)["workloads"]}
    assert {name: rows[name]["nnz"] for name in ("spartus", "ese")} == {"spartus": 293_632, "ese": 235_776}
    assert all(row["rtl_mismatches"] == 0 for row in rows.values())
    for row in rows.values():
        assert not performance.outdated(row)
        assert performance.missed(row) is None
        quiet = row["rtl_quieted"]
        assert quiet["cycles_predicted"] == quiet["cycles_counted"]
        assert quiet["group_imbalance"] == quiet["group_imbalance_counted"]
        assert quiet["longest_beats"] == quiet["longest_beats_counted"]
    spartus = rows["spartus"]
    assert spartus["occupancy_matvec"] >= 0.99
    assert spartus["occupancy_total"] >= 0.95
    assert spartus["us_per_step"] <= 33
    assert spartus["cases"]["nine_tenths_unchanged"]["us_per_step"] <= 5
    assert rows["ese"]["us_per_step"] <= 82.7 / 3
    for row in rows.values():
        if row["device"].startswith("LFE5U"):
            assert row["fmax_mhz"] >= (130 if row["pes"] <= 32 else 100), row["name"]
    assert min(rows[name]["fmax_mhz"] for name in ("vowels", "sprams")) >= 20


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(
        workloads, "WORKLOADS", {"small": WORKLOAD, "gone": replace(WORKLOAD, name="gone", make=refuse)}
    )
    out, words = tmp_path / "performance.json", ["--no-pnr", "--skip-rtl"]
    done = CliRunner().invoke(app, ["bench", "small", "gone", "--json", str(out), *words])
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert [each["name"] for each in record["workloads"]] == ["small"]
    (small,) = record["workloads"]
    shown = re.search(r"small +(\S+) +(\S+) % +- +- +- +-\s", done.stdout)
    assert shown is not None
    assert shown[1] == f"{small['cycles_per_step']:,.1f}"
    assert shown[2] == f"{100 * small['occupancy_total']:.1f}"
    assert "gone: skipped, there are no data" in done.stderr
    assert out.with_suffix(".md").read_text() == performance_table.page(record)
    # synthesized points are shown where they are beside
    artefact.write_json(tmp_path / "synthesis.json", artefact.read_json(POINTS))
    # the word performance may be there
    again = CliRunner().invoke(app, ["bench", "performance", "small", "--json", str(out), *words])
    assert again.exit_code == 0, again.output
    assert json.loads(out.read_text()) == record
    assert out.with_suffix(".md").read_text() == performance_table.page(record, estimate.read_points(POINTS))
    # what is placed and routed becomes a point of the laws of area
    points = tmp_path / "points.json"
    monkeypatch.setattr(tools, "place", lambda *given: PLACED)
    placed = CliRunner().invoke(app, ["bench", "small", "--json", str(out), "--skip-rtl", "--points", str(points)])
    assert placed.exit_code == 0, placed.output
    assert out.with_suffix(".md").read_text().count("\n| `small`, LFE5U-25F | ") == 1
    (point,) = estimate.read_points(points)
    assert (point["name"], point["command"], point["luts"]) == (
        "small 8 x 2 on LFE5U-25F, multipliers: dsp",
        "sparsegate bench small",
        1,
    )
    wrong = CliRunner().invoke(app, ["bench", "gone", "--json", str(tmp_path / "none.json"), *words])
    assert wrong.exit_code == 1
    assert not (tmp_path / "none.json").exists()


def refuse(folder: Path, work: Path) -> Work:
    raise MissingData("there are no data")


def crash(folder: Path, work: Path) -> Work:
    raise ToolError("Yosys failed with status 3")


def test_a_workload_that_fails_is_no_success(tmp_path, monkeypatch):
    """The others are measured and kept; missing data alone are no failure."""
    late = replace(WORKLOAD, name="late")
    monkeypatch.setattr(
        workloads, "WORKLOADS", {"bad": replace(WORKLOAD, name="bad", make=crash), "small": WORKLOAD, "late": late}
    )
    speeds = {"small": 90.0, "late": 89.9}  # of the 90 that are asked for
    monkeypatch.setattr(tools, "place", lambda made, workload, *_: PLACED | {"fmax_mhz": speeds[workload.name]})
    out = tmp_path / "performance.json"
    done = CliRunner().invoke(app, ["bench", "--json", str(out), "--skip-rtl"])
    said = " ".join(done.stderr.split())
    assert done.exit_code == 1
    assert "bad: failed, Yosys failed with status 3" in said
    assert "could not be measured: bad" in said
    assert [each["name"] for each in json.loads(out.read_text())["workloads"]] == ["small", "late"]
    assert "late: timing is not met: 89.9 MHz reached, 90 MHz expected" in said
    assert "small: timing" not in said
    page = out.with_suffix(".md").read_text()
    assert page.count("timing is not met") == 1
    assert "; timing is not met: 89.9 MHz reached, 90 MHz expected.\n" in page


def test_what_rtl_said_stands_while_nothing_has_changed():
    before = row(frames=3, simulate=lambda *given: SIMULATED, synthesize=lambda *given: AREA)
    assert before["rtl_mismatches"] == 0
    assert row(before=before, synthesize=lambda *given: AREA) == before
    assert row(before=before, form=lambda *given: "abc") == before
    # other hardware, another Program, or neither known
    for again in (
        row(before=before, synthesize=lambda *given: AREA | {"form": "abd"}),
        row(before=before, form=lambda *given: "abd"),
        row(before=before | {"digests": before["digests"] | {"program": ""}}, form=lambda *given: "abc"),
        row(before=before | {"inputs": "others"}, form=lambda *given: "abc"),
        row(before=before | {"form": None}),
    ):
        assert (again["rtl"], again["rtl_quieted"], again["rtl_mismatches"]) == (None, None, None)
        assert "verilator" not in again["tools"]


def test_a_file_that_is_no_record_is_refused(tmp_path):
    artefact.write_json(tmp_path / "other.json", {"rows": []})
    with pytest.raises(SparseGateError, match="is no record of 'sparsegate bench'"):
        performance.read(tmp_path / "other.json")


def test_networks_and_inputs_are_kept(tmp_path):
    calls = []

    def make() -> Work:
        calls.append(1)
        return small(tmp_path, tmp_path)

    first = workloads._kept(tmp_path, "net", "a", make)
    again = workloads._kept(tmp_path, "net", "a", make)
    assert len(calls) == 1
    assert again.program.digest == first.program.digest == program().digest
    assert (again.raw == small(tmp_path, tmp_path).raw).all()
    assert (again.lengths.tolist(), again.network, again.inputs) == ([6, 4], "random weights", "random")
    workloads._kept(tmp_path, "net", "b", make)
    assert len(calls) == 2


def test_random_networks_run_without_data(tmp_path):
    made = workloads.random_lstm("tiny", 6, 16, NM(1, 4), 8, NM(1, 4))(tmp_path, tmp_path)
    assert made.inputs.startswith("random: there is no FSDD")
    assert made.raw.shape == (workloads.CLIPS, workloads.FRAMES, 6)
    assert made.program.layers[0].outputs == 8


def test_frames_of_a_recording():
    folder = real.data_folder(None)
    if not real.fsdd_folder(folder).is_dir():
        pytest.skip(f"there is no FSDD in {folder}")
    pytest.importorskip("librosa")
    (clip,) = [clip for clip in real.clips(folder, range(1)) if (clip.digit, clip.speaker) == (3, "theo")]
    frames = workloads.filterbank(clip, 124)
    assert frames.shape[1] == 124
    assert np.abs(frames[:, :123].mean(axis=0)).max() < 1e-6
    assert not frames[:, 123].any()


@pytest.mark.skipif(not RECORD.exists(), reason="there is no committed record yet")
def test_the_committed_pages_are_those_of_the_record():
    record = performance.read(RECORD)
    assert record is not None
    points = estimate.read_points(POINTS)
    assert (RECORD.with_suffix(".md")).read_text(encoding="utf-8") == performance_table.page(record, points)
    assert (ROOT / "docs" / "roofline.md").read_text(encoding="utf-8") == roofline.page(record, points)
    recipe = re.search(r"^bench-performance:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)
    assert recipe
    for words in ("--json docs/benchmarks/performance.json", "--roofline docs/roofline.md"):
        assert f" {words} " in recipe[0]


def test_others_stand_beside():
    """In a table of their own, with what the CPU needed in the same run."""
    found = row(synthesize=lambda *given: AREA) | {
        "published": [{"system": "ESE", "figures": "82.7 µs", "source": "the paper"}],
        "alternative": {"what": "onnxruntime", "us_per_step": {"1 thread": 120.5}},
    }
    page = performance_table.page(performance.merged(None, [found], ["small"]))
    ours = f"{found['cycles_per_step']:,.1f} cycles, {found['us_per_step']:.2f} µs,"
    assert (
        f"| small | {ours} {found['gops_dense_equivalent']:,.1f} GOPS dense-equivalent | ESE | 82.7 µs | the paper |"
        in page
    )
    assert " | the CPU | 120.5 µs (1 thread): onnxruntime | run by us |" in page


@pytest.mark.parametrize("name", [name for name, each in workloads.WORKLOADS.items() if each.packed or each.stretch])
def test_other_arrays_are_ones_that_the_engine_has(tmp_path, name):
    """On a Program of the workload's shape, which is all that counts; random where the real one needs data or a training."""
    shapes = {
        "vowels": (12, [Shape("lstm", 64, NM(1, 8), NM(1, 8)), Shape("linear", 9, when="last")]),
        "keywords": (12, [Shape("lstm", 64, NM(1, 8), NM(1, 8))] * 3 + [Shape("linear", 35, when="last")]),
        "encoder": (40, [Shape("lstm", 256, NM(2, 32), NM(2, 32))] * 3 + [Shape("linear", 256, when="last")]),
    }
    workload, family = workloads.WORKLOADS[name], name.partition("-")[0]
    if family in shapes:
        inputs, layers = shapes[family]
        x = np.random.default_rng(1).normal(size=(2, 6, inputs))
        config = workloads.SMALL if family == "vowels" else quantize.QuantizeConfig()
        made = quantize.quantize(synthetic.network(inputs, layers, seed=1), x, config=config)
    else:
        made = workload.make(tmp_path / "none", tmp_path).program
    for config in (workload.config, *workload.packed, *workload.stretch):
        assert estimate.sizes(Layout(made, config), device(workload.device))["one"] == 1


def test_other_arrays_become_points(tmp_path, monkeypatch):
    """As often as it is asked: a point of the same array takes the place of the one before."""
    from sparsegate_hw.synthesis import synth

    other = HardwareConfig(rows=4, deep=True)
    monkeypatch.setattr(
        workloads,
        "WORKLOADS",
        {"small": replace(WORKLOAD, packed=(CONFIG, other)), "bare": replace(WORKLOAD, name="bare")},
    )
    packed = {key: PLACED[key] for key in PLACED} | {"fmax_mhz": None, "seed": None, "tried": []}
    asked = []
    monkeypatch.setattr(
        synth, "pack", lambda made, config, **given: asked.append((made.name, config, given["device"])) or packed
    )
    points = tmp_path / "points.json"
    for _ in range(2):
        done = CliRunner().invoke(app, ["bench", "area", "small", "--points", str(points)])
        assert done.exit_code == 0, done.output
    assert asked == [("small", config, "LFE5U-25F") for config in (CONFIG, other)] * 2
    found = estimate.read_points(points)
    assert [(one["hardware"]["rows"], one["fmax_mhz"], one["luts"]) for one in found] == [(4, None, 1), (8, None, 1)]
    assert {one["command"] for one in found} == {"sparsegate bench area small"}
    # what has no data is passed over
    monkeypatch.setitem(workloads.WORKLOADS, "gone", replace(WORKLOAD, name="gone", make=refuse, packed=(CONFIG,)))
    done = CliRunner().invoke(app, ["bench", "area", "gone", "small", "--points", str(points)])
    assert done.exit_code == 0, done.output
    assert "gone: skipped, there are no data" in " ".join(done.stderr.split())
    assert len(asked) == 6
    none = CliRunner().invoke(app, ["bench", "area", "gone", "--points", str(points)])
    assert none.exit_code == 1
    assert "could not be measured: gone" in " ".join(none.stderr.split())
    monkeypatch.delitem(workloads.WORKLOADS, "gone")
    refused = CliRunner().invoke(app, ["bench", "area", "bare", "--points", str(points)])
    assert refused.exit_code == 1
    assert "no other arrays are measured of bare, only of small" in " ".join(refused.stderr.split())
