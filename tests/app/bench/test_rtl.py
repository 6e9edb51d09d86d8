from __future__ import annotations

import pytest

from sparsegate_app.bench import rtl as bench


@pytest.mark.verilator
@pytest.mark.slow
def test_speeds_are_measured_on_equal_work(capsys, monkeypatch) -> None:
    runs = (("verilator", True, 2), ("amaranth", False, 1))
    fast, slow = bench.measure(runs, steps=2, units=8)
    assert (fast.driver, slow.driver) == ("compiled C++", "Python")
    assert slow.ratio == 1.0
    assert fast.cycles > slow.cycles > 0
    monkeypatch.setattr(bench, "measure", lambda runs: [fast, slow])
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == bench.DEFINITION
    assert [line.split()[0] for line in lines[1:]] == ["simulator", "verilator", "amaranth"]
