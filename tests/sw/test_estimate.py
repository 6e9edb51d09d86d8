"""Estimates: exact counts against what synthesis measured, laws, the search, and the files."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sparsegate import estimate, golden, synthetic
from sparsegate.cycles import predict
from sparsegate.devices import DEVICES, device
from sparsegate.errors import SparseGateError
from sparsegate.layout import HardwareConfig, Layout
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig, quantize

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
    # random data move nearly every column, never more
    steps = np.diff(counted.end[0])
    assert 0.8 * estimate.step_cycles(layout) < steps.max() <= estimate.step_cycles(layout)


@pytest.mark.parametrize(
    ("inputs", "units", "head", "weight_bits", "loaded", "bram", "sprams"),
    [(12, 64, 9, 5, False, 30, 0), (40, 240, 10, 8, True, 27, 4)],
)
def test_counts_of_a_up5k_are_those_of_its_routed_designs(inputs, units, head, weight_bits, loaded, bram, sprams):
    """As docs/synthesis.md has them."""
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
    assert estimate.sizes(layout, "ice40", "logic")["dsp"] == 0


def test_fit_takes_the_fastest_that_fits():
    program = make_program()
    large, small = estimate.fit(program, "LFE5U-85F"), estimate.fit(program, "LFE5U-25F")
    for found, name in ((large, "LFE5U-85F"), (small, "lfe5u-25f")):
        assert all(one.fits(device(name)) for one in found)
        assert [one.cycles for one in found] == sorted(one.cycles for one in found)
    assert large[0].cycles < small[0].cycles
    best = small[0]
    config = HardwareConfig(rows=best.rows, groups=best.groups, lanes=best.lanes)
    assert estimate.estimate(program, config, "LFE5U-25F") == best
    with pytest.raises(SparseGateError, match="no array for this Program fits iCE40HX8K: 0 multipliers, 32 block RAMs"):
        estimate.fit(program, "iCE40HX8K")
    with pytest.raises(SparseGateError, match="no device is called 'XC7'; known are LFE5U-12F"):
        estimate.fit(program, "XC7")


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
            {
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
    assert estimate.refit(points[:2]) == {}  # too few to fit anything
    monkeypatch.setattr(estimate, "load_laws", lambda: found)
    for row in estimate.errors(points):
        assert (row["dsp"], row["bram"]) == (0, -1)
        assert row["luts"] == pytest.approx(0, abs=1e-3)
    path = tmp_path / "points.json"
    for one in points[::-1]:
        estimate.add_point(path, one)
    estimate.add_point(path, points[3] | {"luts": 1})
    assert [one["name"] for one in estimate.read_points(path)] == sorted(str(number) for number in range(12))
    assert sum(one["luts"] == 1 for one in estimate.read_points(path)) == 1


def test_laws_are_those_of_the_committed_points():
    points = estimate.read_points(POINTS)
    assert estimate.refit(points) == estimate.load_laws()


def test_devices():
    assert {chip.family for chip in DEVICES.values()} == {"ecp5", "ice40"}
    assert all(chip.luts and chip.bram for chip in DEVICES.values())
