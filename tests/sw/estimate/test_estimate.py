"""Estimates: exact counts against what synthesis measured, laws, the search, and the files."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsegate import artefact, estimate, golden
from sparsegate.array import HardwareConfig, Layout
from sparsegate.array.cycles import predict
from sparsegate.array.step import streamed_cycles
from sparsegate.errors import SparseGateError
from sparsegate.estimate import laws
from sparsegate.fpga.devices import DEVICES, device
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig, quantize
from sparsegate_app.bench import performance
from sparsegate_app.cli import app
from sparsegate_app.cli import estimate as command

POINTS = "docs/benchmarks/synthesis.json"


def make_program(kind="lstm", n=4, units=64, inputs=12):
    shapes = [synthetic.Shape(kind, units, NM(1, n), NM(1, n)), synthetic.Shape("linear", 9)]
    x = np.random.default_rng(0).normal(size=(4, 20, inputs))
    return quantize(synthetic.network(inputs, shapes, 0), x)


def small_program(inputs, units, head, weight_bits):
    """Of the widths that suit an iCE40 UP5K."""
    config = QuantizeConfig(
        activation_bits=5,
        weight_bits=weight_bits,
        pre_bits=9,
        table_bits=8,
        state_bits=12,
        output_bits=12,
        calibration="mse",
        operand_bits=16,
    )
    shapes = [synthetic.Shape("lstm", units, NM(1, 8), NM(1, 8)), synthetic.Shape("linear", head, when="last")]
    x = np.random.default_rng(0).normal(size=(8, 20, inputs))
    return quantize(synthetic.network(inputs, shapes, 0), x, config=config)


@pytest.mark.parametrize(
    ("kind", "n", "rows", "dsp", "bram"),
    [("lstm", 4, 8, 14, 22), ("lstm", 4, 16, 28, 36), ("lstm_peephole", 8, 8, 20, 24), ("gru", 8, 9, 21, 18)],
)
def test_counts_are_those_of_synthesis(kind, n, rows, dsp, bram):
    """What Yosys made of their engines for an ECP5."""
    started = time.monotonic()
    found = estimate.estimate(make_program(kind, n), HardwareConfig(rows=rows))
    assert time.monotonic() - started < 5  # a second on an idle machine
    assert (found.dsp, found.bram) == (dsp, bram)


def test_cycles_are_the_cycle_models():
    program, config = make_program(), HardwareConfig(rows=8, groups=2)
    layout = Layout(program, config)
    raw = synthetic.stimulus(program.input_format, 1, 6, 12, seed=0)
    counted = predict(golden.run(program, raw), layout)
    assert streamed_cycles(layout) == performance.full(program, layout)["cycles_per_step"]
    # random data move nearly every column, never more
    steps = np.diff(counted.end[0])
    assert 0.8 * streamed_cycles(layout) < steps.max() <= streamed_cycles(layout)


@pytest.mark.parametrize(
    ("inputs", "units", "head", "weight_bits", "loaded", "bram", "sprams"),
    [(12, 64, 9, 5, False, 30, 0), (40, 240, 10, 8, True, 27, 4)],
)
def test_counts_of_a_up5k_are_those_of_its_routed_designs(inputs, units, head, weight_bits, loaded, bram, sprams):
    """As docs/reference/synthesis.md has them."""
    program = small_program(inputs, units, head, weight_bits)
    found = estimate.estimate(program, HardwareConfig(rows=4, multiplier=16, banks=1, loaded=loaded), "iCE40UP5K")
    assert (found.bram, found.sprams, found.dsp) == (bram, sprams, 7)
    assert found.fits(DEVICES["iCE40UP5K"])
    if loaded:  # or the weights alone would take nearly four times what there is
        plain = estimate.estimate(program, HardwareConfig(rows=4, multiplier=16, banks=1), "iCE40UP5K")
        assert plain.bram == bram + 4 * 28
        assert not plain.fits(DEVICES["iCE40UP5K"])
        assert estimate.fit(program, "iCE40UP5K", HardwareConfig(multiplier=16, banks=1, loaded=True))[0].pes == 4


def test_multipliers_in_logic():
    layout = Layout(make_program(), HardwareConfig(rows=8))
    assert estimate.sizes(layout, device("iCE40UP5K"), "logic")["dsp"] == 0


def make_stack(units=256):
    shapes = [synthetic.Shape("lstm", units, NM(1, 8), NM(1, 8))] * 2
    x = np.random.default_rng(0).normal(size=(4, 20, 12))
    return quantize(synthetic.network(12, shapes, 0), x)


def test_accumulators_in_block_ram():
    """A block RAM for each PE and bank, and its distributed RAM less; registers more, and the cycles that these take."""
    program, array = make_stack(), HardwareConfig(rows=8, groups=2, lanes=2, deep=True)
    plain = estimate.estimate(program, array)
    assert plain.banks == 2
    last = plain.luts
    for count in (1, 2, 3):
        found = estimate.estimate(program, replace(array, block_banks=count))
        assert found.bram == plain.bram + 16 * min(count, 2)
        assert found.luts < last if count < 3 else found.luts == last
        assert found.ffs > plain.ffs
        assert found.dsp == plain.dsp
        assert found.cycles == plain.cycles  # of two banks one drains while the other is filled
        last = found.luts
    one = replace(array, banks=1)  # in which no phase covers another's drain
    assert estimate.estimate(program, replace(one, block_banks=1)).cycles == estimate.estimate(program, one).cycles + 4
    assert not estimate.sizes(Layout(program, replace(array, block_banks=2)))["accumulators"]
    for name in ("iCE40UP5K", "GW2A-18"):  # whose size alone says where they lie
        for ask in (estimate.estimate, lambda program, config, name: estimate.fit(program, name, config)):
            with pytest.raises(SparseGateError, match="block_banks is 1, expected 0: it is for an ECP5"):
                ask(program, replace(array, multiplier=16, block_banks=1), name)


def test_fit_puts_accumulators_into_block_ram_where_an_array_is_too_large_otherwise(monkeypatch):
    program, array = make_stack(), HardwareConfig(rows=8, groups=2, lanes=2, banks=2, deep=True)
    fixed = [name for name in estimate.SEARCHED if name != "block_banks"]
    for count in range(3):
        luts = estimate.estimate(program, replace(array, block_banks=count), "LFE5U-85F").luts
        monkeypatch.setattr(laws, "share", lambda family, most=luts: (most + 1) / device("LFE5U-85F").luts)
        found = estimate.fit(program, "LFE5U-85F", array, fixed)
        assert [one.block_banks for one in found] == [count]
    monkeypatch.setattr(laws, "share", lambda family, most=luts: (most - 1) / device("LFE5U-85F").luts)
    with pytest.raises(SparseGateError, match="no array for this Program fits LFE5U-85F"):
        estimate.fit(program, "LFE5U-85F", array, fixed)
    monkeypatch.undo()
    with pytest.raises(SparseGateError, match="no array for this Program fits LFE5U-12F"):
        estimate.fit(program, "LFE5U-12F", replace(array, block_banks=2), estimate.SEARCHED)  # no block RAM is left


def config_of(one):
    return HardwareConfig(one.rows, one.groups, one.lanes, banks=one.banks, block_banks=one.block_banks, deep=one.deep)


def test_fit_takes_the_fastest_that_fits():
    program = make_program()
    large, small = estimate.fit(program, "LFE5U-85F"), estimate.fit(program, "LFE5U-25F")
    for found, name in ((large, "LFE5U-85F"), (small, "lfe5u-25f")):
        assert all(one.fits(device(name)) for one in found)
        assert estimate.timed(found)
        times = [one.us for one in found if one.us is not None]
        assert times == sorted(times)
        assert [one.us for one in found[: len(times)]] == times  # those without a clock come last
        assert {(one.deep, one.banks) for one in found} == {(deep, banks) for deep in (False, True) for banks in (1, 2)}
    assert large[0].us < small[0].us
    for one in (small[0], small[-1]):
        assert estimate.estimate(program, config_of(one), "LFE5U-25F") == one
    with pytest.raises(
        SparseGateError, match="no array for this Program fits iCE40HX8K: multipliers of logic, 32 block RAMs"
    ):
        estimate.fit(program, "iCE40HX8K")
    with pytest.raises(SparseGateError, match="no device is called 'XC7'; known are LFE5U-12F"):
        estimate.fit(program, "XC7")


def test_multipliers_of_logic_are_searched_where_a_device_has_none_or_they_are_asked_for():
    program = small_program(12, 64, 9, 5)
    found = estimate.fit(program, "iCE40HX8K", HardwareConfig(banks=1))
    assert found
    assert {one.dsp for one in found} == {0}
    assert estimate.estimate(program, replace(config_of(found[0])), "iCE40HX8K") == found[0]
    small = make_program(units=16)
    own, logic = (estimate.fit(small, "LFE5U-25F", multipliers=kind) for kind in (None, "logic"))
    assert min(one.dsp for one in own) > max(one.dsp for one in logic) == 0
    array = ["rows", "groups", "lanes", "banks", "block_banks", "deep"]
    places = {tuple(getattr(one, name) for name in array): one for one in own}
    both = [(one, places.get(tuple(getattr(one, name) for name in array))) for one in logic]
    assert any(other for _, other in both)
    assert all(one.luts > other.luts for one, other in both if other)
    with pytest.raises(SparseGateError, match="iCE40HX8K has no multipliers; use --multipliers logic"):
        estimate.estimate(program, HardwareConfig(), "iCE40HX8K", "dsp")
    with pytest.raises(SparseGateError, match="multipliers are made of 'tubes', expected 'dsp' or 'logic'"):
        estimate.fit(program, "iCE40UP5K", multipliers="tubes")


def test_what_synthesis_refuses_is_not_estimated():
    """A UP5K's multipliers take 16 bits."""
    wide = quantize(
        synthetic.network(4, [synthetic.Shape("lstm", 8)], 0),
        np.random.default_rng(0).normal(size=(2, 6, 4)),
        config=QuantizeConfig(activation_bits=16, weight_bits=8),
    )
    assert Layout(wide, HardwareConfig(rows=4)).operand_width > 16
    for ask in (estimate.estimate, lambda program, config, name: estimate.fit(program, name, config)):
        with pytest.raises(SparseGateError, match="16"):
            ask(wide, HardwareConfig(rows=4), "iCE40UP5K")


def test_fit_is_no_worse_than_any_array_that_fits():
    """Against estimates of other arrays, one by one."""
    program, chip = make_program(units=16), device("LFE5U-25F")
    found = estimate.fit(program, chip.name)
    for rows in (4, 8, 12, 16):
        for groups in (1, 2, 3):
            for banks in (1, 2):
                for deep in (False, True):
                    one = estimate.estimate(program, HardwareConfig(rows, groups, banks=banks, deep=deep), chip.name)
                    assert not one.fits(chip) or one.us is None or found[0].us <= one.us


def test_what_is_fixed_is_not_searched():
    program = make_program()
    given = HardwareConfig(rows=16, groups=2, lanes=2, banks=1, block_banks=1, deep=True)
    assert [config_of(one) for one in estimate.fit(program, "LFE5U-85F", given, estimate.SEARCHED)] == [given]
    for name in estimate.SEARCHED:
        found = estimate.fit(program, "LFE5U-85F", given, [name])
        assert {getattr(one, name) for one in found} == {getattr(given, name)}
        assert len(found) > 1


def test_arrays_that_the_engine_refuses_are_passed_over():
    program = quantize(
        synthetic.network(12, [synthetic.Shape("lstm", 64, NM(1, 8), NM(1, 8))], 0),
        np.random.default_rng(0).normal(size=(4, 20, 12)),
    )
    found = estimate.fit(program, "LFE5U-25F", HardwareConfig(outputs=8))
    # where lanes take turns there are no beats of 8 values
    assert found
    assert all(one.lanes == one.rows // 4 for one in found)
    with pytest.raises(
        SparseGateError,
        match="no array runs this Program with these options: outputs is 16, expected a divisor of the 8",
    ):
        estimate.fit(program, "LFE5U-25F", HardwareConfig(outputs=16))
    with pytest.raises(SparseGateError, match="with these options: 6 PE rows do not divide into clusters of 4"):
        estimate.fit(program, "LFE5U-25F", HardwareConfig(rows=6), ["rows"])
    # some run, and are too large: not the refusal of the others
    with pytest.raises(
        SparseGateError, match=r"fits LFE5U-12F: 28 multipliers, 56 block RAMs, \d+ of 24288 LUTs by the laws"
    ):
        estimate.fit(program, "LFE5U-12F", HardwareConfig(rows=28, outputs=8), ["rows"])


@pytest.mark.parametrize("family", ["ecp5", "ice40"])
def test_a_device_takes_as_much_as_was_routed_on_one(family, monkeypatch):
    """By the laws: every routed point fits its device, though one of an iCE40 takes more than SHARE; what is larger by a tenth of
    the most that may be taken does not.
    """
    points = [one for one in estimate.read_points(POINTS) if device(one["device"]).family == family and one["fmax_mhz"]]
    measured = max(one["luts"] / device(one["device"]).luts for one in points)
    assert (measured > estimate.SHARE) == (family == "ice40")
    shares = []
    for point, row in zip(points, estimate.errors(points), strict=True):
        chip, luts = device(point["device"]), row["estimate"]["luts"]
        one = estimate.Estimate(chip.name, 8, 1, 2, 8, 0, 0, luts, 0, 1, 1, True, None, None)
        assert one.fits(chip)
        shares.append((luts / chip.luts, one, chip))
    most, one, chip = max(shares, key=lambda share: share[0])
    taken = estimate.share(family)
    if family == "ice40":
        assert estimate.SHARE < most <= taken < most + 2e-4
    else:
        assert most < taken == estimate.SHARE
    larger = round(1.1 * taken * chip.luts)
    assert not replace(one, luts=larger).fits(chip)
    assert not replace(one, luts=0, ffs=larger).fits(chip)
    assert estimate.share("gowin") == estimate.SHARE  # no law
    # where a fuller one was routed, its family takes as much
    monkeypatch.setattr(laws, "load_routed", lambda: {family: {"share": 0.99}})
    assert estimate.share(family) == 0.99
    monkeypatch.setattr(laws, "load_routed", dict)
    assert estimate.share(family) == estimate.SHARE  # nothing is known


def test_the_clock_is_that_of_points_of_a_like_size(monkeypatch):
    clocks = [
        {"fabric": "ecp5", "speed": "6", "deep": deep, "luts": luts, "fmax_mhz": mhz}
        for deep, luts, mhz in ((False, 1000, 130.0), (False, 2000, 120.0), (True, 20000, 100.0))
    ]
    monkeypatch.setattr(laws, "load_routed", lambda: {"ecp5": {"clocks": clocks}})
    slow, fast = device("LFE5U-85F"), device("LFE5UM5G-85F")
    assert estimate.clock_of(slow, False, 1500) == estimate.Clock(125.0, 120.0, 130.0, 2)
    assert estimate.clock_of(slow, False, 400) == estimate.Clock(130.0, 130.0, 130.0, 1)
    assert estimate.clock_of(slow, False, 399) is None
    assert estimate.clock_of(slow, False, 5000) == estimate.Clock(120.0, 120.0, 120.0, 1)
    assert estimate.clock_of(slow, False, 5001) is None
    assert estimate.clock_of(slow, True, 10000) == estimate.Clock(100.0, 100.0, 100.0, 1)
    assert estimate.clock_of(slow, False, 20000) is None  # another depth
    assert estimate.clock_of(fast, False, 1500) is None  # another speed grade
    assert estimate.clock_of(slow, False, None) is None
    # all sizes of an ECP5 have the same delays, two iCE40 of no speed grade have not
    assert estimate.clock_of(device("LFE5U-25F"), False, 1500) == estimate.clock_of(slow, False, 1500)
    small = {"fabric": "iCE40UP5K", "speed": "", "deep": False, "luts": 1000, "fmax_mhz": 30.0}
    monkeypatch.setattr(laws, "load_routed", lambda: {"ice40": {"clocks": [small]}})
    assert estimate.clock_of(device("iCE40UP5K"), False, 1000).mhz == 30.0
    assert estimate.clock_of(device("iCE40HX8K"), False, 1000) is None


def test_without_clocks_arrays_are_ranked_by_cycles(monkeypatch):
    program = make_program(units=16)
    monkeypatch.setattr(laws, "load_routed", dict)
    found = estimate.fit(program, "LFE5U-25F")
    assert not estimate.timed(found)
    assert [one.cycles for one in found] == sorted(one.cycles for one in found)
    # some clocks are not enough, as cycles of one array cannot be held against microseconds of another
    monkeypatch.setattr(laws, "load_routed", lambda: {"ecp5": {"clocks": [{"fmax_mhz": 100.0}]}})
    first = replace(found[0], us=1.0)
    assert estimate.timed([first])
    assert not estimate.timed([first, replace(found[0], rows=999, cycles=99)])
    # but for those that no clock makes the fastest, or that differ in depth alone
    assert estimate.timed([first, replace(found[0], rows=999, cycles=100)])
    assert estimate.timed([first, replace(found[0], deep=not found[0].deep, cycles=99)])


def test_laws_are_found_again(tmp_path, monkeypatch):
    """Points drawn from laws give these laws."""
    rng = np.random.default_rng(0)
    true = {"luts": {"one": 1000.0, "accumulators": 9.0}, "ffs": {"products": 5.0, "lane_bits": 2.0}}
    points = []
    for number in range(12):
        sizes = {name: float(rng.integers(1, 500)) for names in estimate.SIZES.values() for name in names} | {
            "one": 1.0
        }
        sizes |= {"dsp": 3.0, "bram": 4.0}
        values = {figure: sum(sizes[name] * k for name, k in law.items()) for figure, law in true.items()}
        points.append(
            dict.fromkeys((*estimate.MEASURED, "command", "hardware", "tools"))
            | {
                "name": str(number),
                "device": "LFE5U-85F",
                "multipliers": "dsp",
                "sizes": sizes,
                "dsp": 3,
                "bram": 5,
                **values,
            }
        )
    found = estimate.refit(points)
    assert found == {"ecp5": {figure: pytest.approx(law) for figure, law in true.items()}}
    assert estimate.refit(points[:2]) == estimate.refit(points[:4]) == {}  # too few to fit anything
    few = estimate.refit(points[:5])["ecp5"]
    assert all(0 < len(law) <= 3 for law in few.values())  # or the errors would say nothing
    monkeypatch.setattr(laws, "load_laws", lambda: found)
    rows = estimate.errors(points)
    for row in rows:
        assert (row["dsp"], row["bram"]) == (0, -1)
        assert row["luts"] == pytest.approx(0, abs=1e-3)
        assert row["left_out"]["luts"] == pytest.approx(0, abs=1e-3)
    # a point that the laws of the others do not explain; twice, as the second of a layout must not explain the first
    odd = points[0] | {"luts": 2 * points[0]["luts"]}
    row = estimate.errors([*points[1:], odd, odd | {"name": "again"}])[-1]
    assert row["left_out"]["luts"] == pytest.approx(-0.5, abs=1e-3)
    with pytest.raises(SparseGateError, match="point '4' has no size 'lists'; measure it again"):
        sizes = {name: value for name, value in points[4]["sizes"].items() if name != "lists"}
        estimate.refit([*points[:4], points[4] | {"sizes": sizes}])
    path = tmp_path / "points.json"
    for one in points[::-1]:
        estimate.add_point(path, one)
    estimate.add_point(path, points[3] | {"luts": 1})
    assert [one["name"] for one in estimate.read_points(path)] == sorted(str(number) for number in range(12))
    assert sum(one["luts"] == 1 for one in estimate.read_points(path)) == 1


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (None, "has no list of points"),
        ([3], "point 0 has no 'name'; measure it again"),
        ([{"name": "a", "command": "b"}], "point 0 has no 'device'; measure it again"),
    ],
)
def test_a_damaged_file_of_points_is_a_sentence(tmp_path, points, message):
    path = tmp_path / "points.json"
    artefact.write_json(path, {"format": estimate.POINTS, "version": estimate.VERSION, "points": points})
    with pytest.raises(SparseGateError, match=message):
        estimate.read_points(path)


def test_multipliers_beyond_the_device_are_logic():
    """Their partial products count; a device that has enough of them makes none of logic, one without any makes all."""
    layout = Layout(make_program(), HardwareConfig(rows=32))
    found = {name: estimate.sizes(layout, device(name)) for name in ("LFE5U-25F", "LFE5U-85F")}
    asked = found["LFE5U-85F"]["dsp"]
    each = layout.weight_width * layout.operand_width
    assert asked == found["LFE5U-25F"]["dsp"] > 28
    assert [one["logic"] for one in found.values()] == [(asked - 28) * each, 0]
    bare = estimate.sizes(layout, device("LFE5U-85F"), "logic")
    assert (bare["dsp"], bare["logic"]) == (0, asked * each)


def test_laws_are_those_of_the_committed_points(tmp_path):
    points = estimate.read_points(POINTS)
    assert estimate.refit(points) == estimate.load_laws()
    written = estimate.write_laws(points, tmp_path / "laws.json")
    assert artefact.read_json(written)["routed"] == estimate.load_routed()


def test_what_points_tell_beside_the_laws():
    sizes = {name: 1.0 for names in estimate.SIZES.values() for name in names} | {"dsp": 1.0, "bram": 1.0}
    point = {
        "name": "a",
        "device": "LFE5U-25F",
        "speed": "6",
        "multipliers": "dsp",
        "hardware": {"deep": True},
        "sizes": sizes,
        "luts": 1000,
        "ffs": 500,
        "dsp": 1,
        "bram": 1,
        "fmax_mhz": 90.0,
    }
    others = [point | {"sizes": sizes | {"one": 2.0}, "deep": False, "luts": 2000}, point | {"device": "iCE40UP5K"}]
    found = estimate.routed([point, *others], {"ecp5": {"luts": {"one": 12144.0}}})
    clocks = [found["ecp5"]["clocks"][0] | {"fabric": "iCE40UP5K"}]
    assert found["ice40"] == {"layouts": 1, "errors": {}, "share": None, "clocks": clocks}
    assert found["ecp5"]["layouts"] == 2
    assert found["ecp5"]["share"] == 1.0  # 24,288 of 24,288
    last = {"fabric": "ecp5", "speed": "6", "deep": True, "luts": 2000, "fmax_mhz": 90.0}
    assert found["ecp5"]["clocks"][1] == last
    # what was packed and not placed is a layout that laws are fitted on, and no example of what can be routed
    packed = point | {"sizes": sizes | {"one": 9.0}, "fmax_mhz": None}
    more = estimate.routed([point, *others, packed], {"ecp5": {"luts": {"one": 12144.0}}})
    assert more["ecp5"]["layouts"] == 3
    assert [more["ecp5"][key] for key in ("share", "clocks")] == [found["ecp5"][key] for key in ("share", "clocks")]


def test_families_that_have_laws():
    """Those with layouts enough, as the command's help and the documentation say."""
    known = estimate.load_routed()
    assert estimate.load_laws().keys() == {"ecp5", "ice40"}
    assert known.keys() == {chip.family for chip in DEVICES.values()}
    for family, of in known.items():
        assert (of["layouts"] >= estimate.FEWEST) == (family in estimate.load_laws())
        assert all(low < 0 < high for low, high in of["errors"].values())
        for figure, law in estimate.load_laws().get(family, {}).items():
            assert set(law) <= set(estimate.SIZES[figure])
            assert len(law) <= of["layouts"] - estimate.SPARE
    assert {"logic"} <= estimate.load_laws()["ice40"]["luts"].keys() & estimate.load_laws()["ecp5"]["luts"].keys()
    assert {one["fabric"] for one in known["ice40"]["clocks"]} == {"iCE40UP5K", "iCE40HX8K"}
    assert "A Gowin has too few points for a law" in " ".join(command.estimate.__doc__.split())
    for page in ("docs/reference/synthesis.md", "docs/roofline.md"):
        assert "A Gowin has too few points for a law" in " ".join(Path(page).read_text(encoding="utf-8").split())


def test_a_clock_that_is_an_upper_bound_is_no_example():
    """nextpnr has no delays for a Gowin's block RAM and multipliers."""
    points = [one for one in estimate.read_points(POINTS) if device(one["device"]).family == "gowin"]
    assert [one["untimed"] for one in points if one["fmax_mhz"]] == ["block RAM and multipliers"]
    assert estimate.load_routed()["gowin"]["clocks"] == []
    timed = [one | {"untimed": ""} for one in points]
    assert len(estimate.routed(timed, estimate.load_laws())["gowin"]["clocks"]) == 1


def run(*words):
    done = CliRunner().invoke(app, ["estimate", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command(tmp_path, monkeypatch):
    program, path, small = make_program(), tmp_path / "program.safetensors", tmp_path / "small.safetensors"
    program.save(path)
    small_program(12, 64, 9, 5).save(small)
    blocks = json.loads(run(path, "--rows", 8, "--block-banks", 1, "--json"))
    assert blocks["bram"] == json.loads(run(path, "--rows", 8, "--json"))["bram"] + 8
    assert "2 banks of accumulators (1 in block RAM)" in " ".join(run(path, "--rows", 8, "--block-banks", 1).split())
    found = json.loads(run(path, "--fit", "LFE5U-25F", "--deep", "--groups", 2, "--json"))
    fixed = estimate.fit(program, "LFE5U-25F", HardwareConfig(groups=2, deep=True), ["groups", "deep"])
    assert found["fit"] == [asdict(one) for one in fixed[:5]]
    assert found["ranked_by"] == "time"
    assert {key: found[key] for key in found["fit"][0]} == found["fit"][0]
    shown = " ".join(run(path, "--fit", "LFE5U-25F", "--deep", "--groups", 2).split())
    best = fixed[0]
    assert f"{best.rows} rows x 2 groups, {best.lanes} lanes, {best.banks} bank" in shown
    assert f"LUTs {best.luts} of 24288 ({best.luts / 24288:.1%}); designs left out of the law were" in shown
    assert f"{best.clock.mhz:.1f} MHz, of {best.clock.points} synthesized of a like size" in shown
    assert "ranked by time of a step" in shown
    shown = " ".join(run(path, "--fit", "LFE5UM5G-25F").split())
    assert "unknown: no synthesized array of this speed grade and depth" in shown
    assert "ranked by cycles, as an array whose clock is unknown might be the fastest" in shown
    shown = " ".join(run(path, "--device", "GW2A-18").split())
    layouts = estimate.load_routed()["gowin"]["layouts"]
    assert f"LUTs no law: {layouts} synthesized gowin layout(s), 5 are needed" in shown
    with monkeypatch.context() as few:
        few.setattr(laws, "load_laws", dict)
        few.setattr(laws, "load_routed", lambda: {"ice40": {"layouts": 2}})
        shown = " ".join(run(small, "--device", "iCE40UP5K", "--rows", 4, "--banks", 1).split())
    assert "LUTs no law: 2 synthesized ice40 layout(s), 5 are needed" in shown
    assert "fits multipliers and block RAMs do; LUTs are not known" in shown
    assert "clock unknown, as the LUTs are" in shown
    both = CliRunner().invoke(app, ["estimate", str(path), "--fit", "LFE5U-25F", "--device", "LFE5U-85F"])
    assert both.exit_code == 1
    assert "--fit LFE5U-25F and --device LFE5U-85F were given, expected one" in " ".join(both.stderr.split())
    # whether it fits: multipliers beyond the device's are of LUTs, which the law counts
    for words, fits, said in (
        (("--rows", 8), True, "fits yes, by the laws multipliers 14 of 28 "),
        (
            ("--rows", 32, "--lanes", 8),
            False,
            "fits no: 72 block RAMs, the device has 56 multipliers 28 of 28, 28 more of logic",
        ),
        (
            ("--rows", 16, "--groups", 2),
            False,
            f"fits no, by the laws: more than {estimate.share('ecp5'):.1%} of the LUTs",
        ),
        (
            ("--rows", 8, "--groups", 3, "--lanes", 2),
            False,
            "fits not without 2 multipliers of logic, for which it has room by the laws",
        ),
        (("--rows", 8, "--groups", 3, "--lanes", 2), False, "multipliers 28 of 28, 2 more of logic"),
        (("--rows", 16, "--multipliers", "logic"), True, "multipliers 0 of 28 "),
    ):
        words = (path, "--device", "LFE5U-25F", *words)
        assert json.loads(run(*words, "--json"))["fits"] is fits
        assert said in " ".join(run(*words).split())
    shown = " ".join(run(path, "--device", "iCE40UP5K", "--rows", 8).split())
    assert re.search(r"fits no: \d+ block RAMs, the device has 30 multipliers 8 of 8, 6 more of logic", shown)
    shown = " ".join(run(small, "--device", "iCE40UP5K", "--rows", 4, "--banks", 1, "--load-weights").split())
    assert "single-port RAMs 4 of 4" in shown
    errors = json.loads(run("--points", POINTS, "--json"))["errors"]
    assert errors == estimate.errors(estimate.read_points(POINTS))


def test_adders_are_of_every_bank():
    """An LSTM with a head takes two banks of accumulators, a GRU with its product apart a second one in a row of three."""
    program = make_program()
    for banks in (1, 2, 3):
        layout = Layout(program, HardwareConfig(rows=8, groups=2, banks=banks))
        assert estimate.sizes(layout)["adders"] == 16 * min(banks, 2) * layout.partial_width
    layout = Layout(make_program("gru"), HardwareConfig(rows=9, banks=1))
    assert len(layout.apart_rows) == 1
    assert estimate.sizes(layout)["adders"] == (9 + 3) * layout.partial_width


def test_devices():
    assert {chip.family for chip in DEVICES.values()} == {"ecp5", "ice40", "gowin"}
    assert all(chip.luts and chip.bram for chip in DEVICES.values())
