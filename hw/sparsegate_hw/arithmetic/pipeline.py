"""A cell's arithmetic as an automatically balanced pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed

from sparsegate.array import timing
from sparsegate.numerics import tables
from sparsegate.numerics.fixed import QFormat
from sparsegate_hw.arithmetic.activation import ActivationLookup
from sparsegate_hw.arithmetic.fixed import round_shift, saturate
from sparsegate_hw.fabric.primitives import Multiplier


@dataclass(frozen=True, eq=False)
class Node:
    """A value in the pipeline: signed ``signal`` with ``frac`` fractional bits, valid ``stage`` cycles after the gates."""

    signal: Value
    frac: int
    stage: int
    name: str


@dataclass(frozen=True, eq=False)
class Saturation:
    """A flag that is 1, ``stage`` cycles after the gates, where the narrowing at ``site`` clipped."""

    site: str
    flag: Value
    stage: int


class PipelineArithmetic:
    """Builds the pipeline of a cell into a module (``cells.Arithmetic`` over :class:`Node`).

    Each operation takes the number of cycles that ``sparsegate.array.timing`` gives it; operands that are early wait in
    delay lines. Reset does not reach the registers: what is valid is known elsewhere.
    """

    def __init__(
        self,
        m: Module,
        formats: Mapping[str, QFormat],
        step_bits: int,
        depths: timing.Depths,
        gates: Mapping[str, Value],
        states: Mapping[str, Value],
        parameters: Mapping[str, Value],
    ) -> None:
        self._m, self._formats, self._step_bits, self._depths = m, formats, step_bits, depths
        self._gates, self._states, self._parameters = gates, states, parameters
        self._delays: dict[tuple[str, int], Value] = {}
        self._names: dict[str, int] = {}
        self.saturations: list[Saturation] = []

    def _name(self, stem: str) -> str:
        count = self._names[stem] = self._names.get(stem, 0) + 1
        return stem if count == 1 else f"{stem}_{count}"

    def _register(self, value: Value, frac: int, stage: int, stem: str) -> Node:
        name = self._name(stem)
        register = Signal(signed(value.shape().width), name=name, reset_less=True)
        self._m.d.sync += register.eq(value)
        return Node(register, frac, stage + 1, name)

    def at(self, node: Node, stage: int) -> Value:
        """The node's signal, delayed to ``stage``."""
        if node.stage > stage:
            raise ValueError(f"{node.name} is ready in stage {node.stage}, later than {stage}")
        if node.stage == stage:
            return node.signal
        key = (node.name, stage)
        if key not in self._delays:
            register = Signal(node.signal.shape(), name=f"{node.name}_at{stage}", reset_less=True)
            self._m.d.sync += register.eq(self.at(node, stage - 1))
            self._delays[key] = register
        return self._delays[key]

    def gate(self, name: str) -> Node:
        return Node(self._gates[name], self._formats["acc"].frac, 0, f"gate_{name}")

    def state(self, name: str) -> Node:
        return Node(self._states[name], self._formats[name].frac, 0, f"state_{name}")

    def parameter(self, name: str) -> Node:
        return Node(self._parameters[name], self._formats["parameter"].frac, 0, f"parameter_{name}")

    def one(self) -> Node:
        form = self._formats["gate"]
        return Node(Const(1 << form.frac, signed(form.width)), form.frac, 0, "one")

    def mul(self, a: Node, b: Node) -> Node:
        stage = max(a.stage, b.stage)
        left, right = self.at(a, stage), self.at(b, stage)
        name = self._name(f"mul_{a.name}")
        self._m.submodules[name] = unit = Multiplier(len(left), len(right))
        self._m.d.comb += [unit.a.eq(left), unit.b.eq(right)]
        return Node(unit.o, a.frac + b.frac, stage + unit.latency, name)

    def add(self, a: Node, b: Node) -> Node:
        left, right, frac, stage = self._aligned(a, b)
        return self._register(left + right, frac, stage, f"add_{a.name}")

    def sub(self, a: Node, b: Node) -> Node:
        left, right, frac, stage = self._aligned(a, b)
        return self._register(left - right, frac, stage, f"sub_{a.name}")

    def _aligned(self, a: Node, b: Node) -> tuple[Value, Value, int, int]:
        stage, frac = max(a.stage, b.stage), max(a.frac, b.frac)
        return self.at(a, stage).shift_left(frac - a.frac), self.at(b, stage).shift_left(frac - b.frac), frac, stage

    def relu(self, value: Node) -> Node:
        signal = value.signal
        return self._register(Mux(signal[-1], 0, signal).as_signed(), value.frac, value.stage, f"relu_{value.name}")

    def narrow(self, value: Node, target: str, site: str, symmetric: bool = False) -> Node:
        form = self._formats[target]
        rounded = Node(round_shift(value.signal, value.frac - form.frac), form.frac, value.stage, value.name)
        for _ in range(self._depths.narrow - 1):
            rounded = self._register(rounded.signal, form.frac, rounded.stage, f"round_{site}")
        clipped, flag = saturate(rounded.signal, form, symmetric)
        node = self._register(clipped, form.frac, rounded.stage, f"narrow_{site}")
        register = Signal(name=f"{node.name}_saturated")
        self._m.d.sync += register.eq(flag)
        self.saturations.append(Saturation(site, register, node.stage))
        return node

    def lookup(self, function: str, value: Node) -> Node:
        source, target = self._formats["pre"], self._formats["gate"]
        name = self._name(f"{function}_{value.name.removeprefix('narrow_')}")
        unit = ActivationLookup(tables.table(function, source, target, self._step_bits), self._depths)
        self._m.submodules[name] = unit
        self._m.d.comb += unit.i.eq(value.signal)
        return Node(unit.o, target.frac, value.stage + unit.latency, name)
