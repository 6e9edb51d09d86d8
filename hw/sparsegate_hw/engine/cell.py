"""A cell as a pipeline: its step on Amaranth values, and the same in integers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import timing
from sparsegate.array.pipelines import stored
from sparsegate.cells import Fixed, IntegerArithmetic
from sparsegate.program import Phase
from sparsegate_hw.arithmetic.pipeline import PipelineArithmetic


class CellPipeline(wiring.Component):
    """One phase of a cell as a pipeline, built from its arithmetic.

    Members: ``gate_<name>`` signed(acc.width), the exact sums of ``spec.sums``; ``state_<name>`` the states (and values
    handed on) before the step, ``parameter_<name>`` the unit's constants; ``h`` the output; ``next_<name>`` the states that the
    phase writes, ``state_stages[name]`` cycles after the gates; ``saturated_<site>`` flags, ``site_stages[site]`` cycles
    after the gates.

    Timing: ``latency`` cycles from gates to ``h``; one item per cycle, no back-pressure.
    """

    def __init__(self, phase: Phase, depths: timing.Depths = timing.SHALLOW) -> None:
        self.phase, self.spec, self.depths = phase, phase.spec, depths
        form = phase.formats
        stages = timing.stages(phase.spec, phase.step_bits, depths)
        self.latency = stages.latency
        self.state_stages, self.site_stages = stages.states, stages.sites
        inside = phase.spec.acc == "acc"  # a projection knows nothing of the cell
        self.states = stored(phase) if inside else ()
        self.parameters = phase.layer.cell.parameters if inside else ()
        super().__init__(
            {
                **{f"gate_{name}": In(signed(form["acc"].width)) for name in phase.spec.sums},
                **{f"state_{name}": In(signed(form[name].width)) for name in self.states},
                **{f"parameter_{name}": In(signed(form["parameter"].width)) for name in self.parameters},
                "h": Out(signed(form["h"].width)),
                **{f"next_{name}": Out(signed(form[name].width)) for name in self.state_stages},
                **{f"saturated_{site}": Out(1) for site in phase.spec.sites},
            }
        )

    def model(
        self, gates: dict[str, Any], states: dict[str, Any], parameters: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Integer model: h and the new states."""
        arithmetic = IntegerArithmetic(self.phase.formats, self.phase.step_bits, gates, states, parameters or {})
        step = self.spec.step(arithmetic)
        h: Fixed = step.h
        return h.raw, {name: value.raw for name, value in step.states.items()}

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        gates = {name: getattr(self, f"gate_{name}") for name in self.spec.sums}
        states = {name: getattr(self, f"state_{name}") for name in self.states}
        parameters = {name: getattr(self, f"parameter_{name}") for name in self.parameters}
        phase = self.phase
        arithmetic = PipelineArithmetic(m, phase.formats, phase.step_bits, self.depths, gates, states, parameters)
        step = self.spec.step(arithmetic)
        m.d.comb += self.h.eq(arithmetic.at(step.h, self.latency))
        for name, node in step.states.items():
            m.d.comb += getattr(self, f"next_{name}").eq(arithmetic.at(node, self.state_stages[name]))
        for item in arithmetic.saturations:
            assert item.stage == self.site_stages[item.site], "timing and pipeline disagree"
            m.d.comb += getattr(self, f"saturated_{item.site}").eq(item.flag)
        return m
