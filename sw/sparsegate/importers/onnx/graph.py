"""Import ONNX models: LSTM, GRU and RNN nodes, Gemm and MatMul heads, and the glue that exporters put around them.

What each node takes is found by following every value through the graph (``sparsegate.importers.onnx.flow``), so layers,
directions, concatenations and the step that a head sees are the graph's own. What is not understood is refused by node.

- Reversed sequences (a Slice with step -1, ReverseSequence) around a forward node make a reverse layer.
- ``initial_h`` and ``initial_c`` that are constants become ``Network.initial``; those that are inputs of the graph are left to the
  caller, and ``meta["states"]`` says which input belongs to which layer and state. ``sequence_lens`` is the caller's ``lengths``.
- The exporters of PyTorch's dynamo unroll ``nn.RNN`` into single steps and lose ``proj_size``; such files are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.chain import names_of
from sparsegate.importers.onnx import file as onnx_file
from sparsegate.importers.onnx.labels import Labels, Spec, Unknown
from sparsegate.importers.onnx.nodes import GraphFlow
from sparsegate.importers.part import Part, check_size
from sparsegate.network import Layer, Network
from sparsegate.network.passes import WHEN, When
from sparsegate.pattern import DENSE, NM, Wanted, pair

if TYPE_CHECKING:
    from onnx import ModelProto

Patterns = Wanted | Mapping[str, Wanted]
HINT = "; name the layers to import to leave it out"


@dataclass(frozen=True)
class Plan:
    """Layers to be, in the order of the graph, and the vectors that make up the output."""

    flow: GraphFlow
    specs: tuple[Spec, ...]
    output: tuple[int, ...]
    when: When

    def same(self, other: Plan) -> bool:
        """Whether another run found the same."""

        def key(plan: Plan) -> object:
            return (
                plan.output,
                plan.when,
                [(s.name, s.weights.kind, s.sources, s.reverse, s.when, s.given) for s in plan.specs],
            )

        def arrays(plan: Plan) -> list[NDArray]:
            return [
                array
                for spec in plan.specs
                for array in (spec.weights.w_x, spec.weights.w_h, spec.weights.bias, *spec.initial.values())
                if array is not None
            ]

        mine, others = arrays(self), arrays(other)
        return (
            key(self) == key(other)
            and len(mine) == len(others)
            and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(mine, others, strict=True))
        )


def describe(source: str | Path | ModelProto, layers: Sequence[str] | None = None) -> list[Part]:
    """List the layers of a model, and the nodes that are not understood; ``used`` is by an import of ``layers``, or of all."""
    model = onnx_file.read(source)
    plan = problem = None
    try:
        plan = _plan(model, layers)
        flow = plan.flow
    except SparseGateError as error:
        problem = str(error)
        flow = _best(model, layers)
    used = {id(spec) for spec in plan.specs} if plan is not None else set()
    rows = [
        Part(entry.name, entry.what, entry.problem, entry.shape, any(id(spec) in used for spec in entry.specs))
        for entry in flow.found
    ]
    if problem is not None and not any(row.problem for row in rows):
        rows.append(Part("graph", "the whole", problem, used=False))
    return rows


def from_onnx(
    source: str | Path | ModelProto,
    layers: Sequence[str] | None = None,
    when: When | None = None,
    patterns: Patterns | None = None,
    name: str = "network",
) -> Network:
    """Make a Network of an ONNX file, or of a loaded model whose weights it holds itself.

    Parameters
    ----------
    layers : names of the nodes to take, as ``describe`` lists them; all where omitted. The network begins with what the first of
        them takes and ends with what the last ones give; the rest of the graph is left out, and need not be understood. Lengths and
        initial states that come from there are left to the caller.
    when : whether a final linear layer runs at every step, or on a sequence's last or final one; what the graph says where omitted.
    patterns : N:M patterns that the weights obey, checked: by node name, or one for every recurrent layer.

    Returns
    -------
    Network
        ``meta`` says what the graph's output is ("output": "step", "last" or "final"), whether its input is (N, T, features)
        ("batch_first"), and which inputs of the graph are the sequences' lengths ("lengths") and initial states ("states": layer ->
        "h", "c" -> input).

    Raises
    ------
    SparseGateError
        Naming the node, its operator and the attribute that is not supported.
    """
    if when is not None and when not in WHEN:
        raise SparseGateError(f"when is {', '.join(map(repr, WHEN))}, not {when!r}")
    layers = names_of(layers)
    model = onnx_file.read(source)
    plan = _plan(model, layers)
    return _network(plan, model.opset, when, patterns, name)


def _plan(model: onnx_file.Model, layers: Sequence[str] | None) -> Plan:
    """Follow the graph with time as the input's second axis, then as its first; one of them fits."""
    failed: list[tuple[int, SparseGateError]] = []
    for time_axis in (1, 0):
        flow = GraphFlow(model, time_axis, 0, layers)
        try:
            plan = _resolve(flow)
            again = _resolve(GraphFlow(model, time_axis, 1, layers)) if flow.free else plan
        except SparseGateError as error:
            failed.append((flow.followed, error))
            continue
        if not plan.same(again):
            raise SparseGateError("what the graph computes depends on the number of steps or of sequences")
        return plan
    raise max(failed, key=lambda entry: entry[0])[1]


def _best(model: onnx_file.Model, layers: Sequence[str] | None) -> GraphFlow:
    """The run that came furthest."""
    return max((GraphFlow(model, time_axis, 0, layers) for time_axis in (1, 0)), key=lambda flow: flow.followed)


def _resolve(flow: GraphFlow) -> Plan:
    """Find the output, and the layers that it needs."""
    if flow.layers is not None:
        output, when = _output_of_named(flow)
    else:
        output, when = _output_of_graph(flow)
    needed: set[int] = set()
    waiting = list(output)
    while waiting:
        vector = waiting.pop()
        spec = flow.vectors[vector].spec
        if vector not in needed and spec is not None:
            waiting += spec.sources
        needed.add(vector)
    inputs = [flow.vectors[vector].name for vector in sorted(needed) if flow.vectors[vector].role == "input"]
    if len(inputs) != 1:
        raise SparseGateError(f"the network has {len(inputs)} inputs, {' and '.join(map(repr, inputs))}, expected 1")
    specs = tuple(spec for k in sorted(needed) if (spec := flow.vectors[k].spec) is not None)
    if not specs:
        raise SparseGateError("the output of the graph depends on no layer")
    if flow.layers is not None:
        for asked in flow.layers:
            if not any(asked == entry.name and any(spec in specs for spec in entry.specs) for entry in flow.found):
                raise SparseGateError(f"layer {asked!r} has no part in the network")
    if when == "final":
        for vector in output:
            spec = flow.vectors[vector].spec
            if len(output) > 1 or spec is None or spec.recurrent:
                raise SparseGateError(
                    f"layer {flow.vectors[vector].name!r}: the output is the final value of a reversed layer, which needs a "
                    "linear head; name the layers to import to take their values at every step"
                )
    if len(output) == 1 and not specs[-1].recurrent and specs[-1] is flow.vectors[output[0]].spec:
        specs[-1].when = when
    return Plan(flow, specs, output, when)


def _output_of_named(flow: GraphFlow) -> tuple[tuple[int, ...], When]:
    """The named layers that no other named one takes."""
    assert flow.layers is not None
    found = {entry.name: entry for entry in flow.found}
    for asked in flow.layers:
        if asked not in found:
            known = ", ".join(repr(entry.name) for entry in flow.found if entry.layer)
            raise SparseGateError(f"the model has no layer {asked!r}; it has {known or 'none'}")
        if not found[asked].specs:
            problem = found[asked].problem or "it is no layer"
            raise SparseGateError(f"layer {asked!r} ({found[asked].what}) cannot be imported: {problem}")
    taken = {
        source for vector in flow.vectors if vector.spec and not vector.spec.replaced for source in vector.spec.sources
    }
    output = tuple(
        number
        for number, vector in enumerate(flow.vectors)
        if vector.role == "layer" and vector.spec and not vector.spec.replaced and number not in taken
    )
    if not output:
        raise SparseGateError("no layer is named")
    head = flow.vectors[output[0]].spec
    if len(output) > 1 or head is None or head.recurrent or len(head.slots) == flow.steps:
        return output, "step"
    return output, _single(flow, output, np.array([sorted(head.slots)]).T)


def _single(flow: GraphFlow, sources: Sequence[int], slots: NDArray) -> When:
    """Whether the slots (rows, sources) are a sequence's last step, or each source's final one."""
    if np.all(slots == flow.last):
        return "last"
    for source, slot in zip(sources, slots.T, strict=True):
        spec = flow.vectors[source].spec
        if spec is None or spec.final is None or np.any(slot != spec.final):
            steps = sorted(set(slots.ravel().tolist()) & set(range(flow.steps)))
            which = f"steps {', '.join(map(str, steps))} of {flow.steps}" if steps else "single steps"
            raise SparseGateError(
                f"it takes {which} of {flow.vectors[source].name!r}, expected all in order, the last, or the final one"
            )
    return "final"


def _output_of_graph(flow: GraphFlow) -> tuple[tuple[int, ...], When]:
    """The one output of the graph that is more than a layer's state; or else the first of those."""
    if flow.input is None:
        raise SparseGateError(
            "the graph has no LSTM, GRU or RNN node that takes an input (PyTorch's dynamo exporter unrolls nn.RNN: export it with "
            "dynamo=False, or import the module itself)"
        )
    others: list[tuple[str, Labels]] = []
    states: list[tuple[str, Labels]] = []
    for entry in flow.model.graph.output:
        value = flow.values.get(entry.name, Unknown(f"output {entry.name!r} is given by no node"))
        if isinstance(value, Unknown):
            raise SparseGateError(value.reason + HINT if value.unsupported else value.reason)
        if not isinstance(value, Labels) or not value.ids.size:
            raise SparseGateError(f"output {entry.name!r} is a constant{HINT}")
        (states if _is_state(flow, value) else others).append((entry.name, value))
    if len(others) > 1:
        names = " and ".join(repr(name) for name, _ in others)
        raise SparseGateError(f"the graph has several outputs, {names}, expected one beside the states{HINT}")
    if not others:
        others = [(name, value) for name, value in states if _is_output(flow, value)][-1:]
    if not others:
        raise SparseGateError("the graph has no output that is more than a cell state")
    name, value = others[0]
    try:
        return _understood(flow, value.ids)
    except SparseGateError as error:
        raise SparseGateError(f"output {name!r}: {error}") from None


def _is_state(flow: GraphFlow, value: Labels) -> bool:
    """Whether all of it is some layers' final h or c."""
    vector, _, slot, _ = flow._parts(value.ids)
    for number in np.unique(vector):
        entry = flow.vectors[number]
        if entry.role == "state":
            continue
        if entry.role != "layer" or entry.spec is None or not entry.spec.recurrent:
            return False
        if np.any(slot[vector == number] != entry.spec.final):
            return False
    return True


def _is_output(flow: GraphFlow, value: Labels) -> bool:
    """Whether all of it is output of layers."""
    return all(flow.vectors[number].role == "layer" for number in np.unique(flow._parts(value.ids)[0]))


def _understood(flow: GraphFlow, ids: NDArray) -> tuple[tuple[int, ...], When]:
    """Vectors of the graph's output, whatever the order of its axes, and the steps of which it is."""
    if flow.batch == 1 and ids.ndim < 3:
        ids = ids[None]
    _, sequence, slot, _ = flow._parts(ids)
    every = range(ids.ndim)
    batches = [axis for axis in every if _runs_along(sequence, axis, flow.batch)]
    times = [axis for axis in every if _runs_along(slot, axis, flow.steps)]
    for axis in times:
        for batch in batches:
            if axis != batch:
                whole = np.moveaxis(ids, (batch, axis), (0, 1)).reshape(flow.batch, flow.steps, -1)
                taken = flow.taken(whole)
                if np.array_equal(taken.slots, np.tile(np.arange(flow.steps), flow.batch)[:, None] + 0 * taken.slots):
                    return taken.sources, "step"
    for batch in batches:
        taken = flow.taken(np.moveaxis(ids, batch, 0).reshape(flow.batch, -1))
        return taken.sources, _single(flow, taken.sources, taken.slots)
    raise SparseGateError("it is neither a sequence nor a single step of each sequence")


def _runs_along(numbers: NDArray, axis: int, size: int) -> bool:
    """Whether the numbers are 0..size-1 along an axis."""
    if numbers.shape[axis] != size:
        return False
    expected = np.arange(size).reshape([-1 if k == axis else 1 for k in range(numbers.ndim)])
    return bool(np.all(numbers == expected))


def _network(plan: Plan, opset: int, when: When | None, patterns: Patterns | None, name: str) -> Network:
    """Build the layers."""
    flow, specs = plan.flow, plan.specs
    check_size(sum(spec.weights.size for spec in specs))
    if when not in (None, "step") and (specs[-1].recurrent or len(plan.output) > 1):
        last = specs[-1]
        raise SparseGateError(
            f"when is for a linear head; the last layer is {last.name!r} ({last.weights.kind.partition('_')[0].upper()})"
        )
    if when is not None and not specs[-1].recurrent:
        specs = (*specs[:-1], replace(specs[-1], when=when))
    named = _named_patterns(plan, patterns)
    numbers = {id(vector.spec): number for number, vector in enumerate(flow.vectors) if vector.role == "layer"}
    names = {numbers[id(spec)]: spec.name for spec in plan.specs}
    order = [numbers[id(spec)] for spec in plan.specs]
    made = []
    for position, spec in enumerate(specs):
        default = (order[position - 1],) if position else None
        sources = tuple(names.get(source, "input") for source in spec.sources)
        if spec.sources == default or (position == 0 and sources == ("input",)):
            sources = ()
        weights = spec.weights
        pattern_x, pattern_h = named.get(id(plan.specs[position]), (DENSE, DENSE))
        made.append(
            Layer(
                spec.name,
                weights.kind,
                weights.w_x,
                weights.w_h,
                weights.bias,
                when=spec.when,
                pattern_x=pattern_x,
                pattern_h=pattern_h if spec.recurrent else DENSE,
                bias_h=weights.bias_h,
                parameters=weights.parameters,
                sources=sources,
                reverse=spec.reverse,
            )
        )
    output = tuple(names[vector] for vector in plan.output)
    states = {spec.name: spec.given for spec in specs if spec.given}
    meta = {"source": "onnx", "opset": opset, "output": plan.when, "batch_first": flow.batch_first}
    meta |= ({"lengths": flow.lengths} if flow.lengths is not None else {}) | ({"states": states} if states else {})
    initial = {spec.name: spec.initial for spec in specs if spec.initial}
    return Network(tuple(made), name, meta, () if output == (made[-1].name,) else output, initial)


def _named_patterns(plan: Plan, patterns: Patterns | None) -> dict[int, tuple[NM, NM]]:
    """Patterns of the specs, by node name or one for all that are recurrent."""
    if patterns is None:
        return {}
    if not isinstance(patterns, Mapping):
        return {id(spec): pair(patterns) for spec in plan.specs if spec.recurrent}
    found: dict[int, tuple[NM, NM]] = {}
    for wanted, pattern in patterns.items():
        specs = [
            spec for entry in plan.flow.found if entry.name == wanted for spec in entry.specs if spec in plan.specs
        ]
        if not specs:
            raise SparseGateError(f"a pattern is given for {wanted!r}, which is not among the imported layers")
        found |= {id(spec): pair(pattern) for spec in specs}
    return found
