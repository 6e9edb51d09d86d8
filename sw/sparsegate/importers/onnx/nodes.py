"""What each kind of node does to the labels of the values that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate.importers.onnx import cells as onnx_cells
from sparsegate.importers.onnx import file as onnx_file
from sparsegate.importers.onnx import glue as onnx_glue
from sparsegate.importers.onnx.cells import Weights
from sparsegate.importers.part import printable

if TYPE_CHECKING:
    from onnx import NodeProto

from sparsegate.importers.onnx.flow import Flow
from sparsegate.importers.onnx.labels import (
    ACTIVATIONS,
    FLOATS,
    INTS,
    MATRICES,
    RECURRENT,
    SUPPORTED,
    Found,
    Labels,
    Spec,
    Taken,
    Unknown,
    Value,
)


class GraphFlow(Flow):
    """A graph followed node by node."""

    def _run(self) -> None:
        graph = self.model.graph
        uses: dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                uses[name] = uses.get(name, 0) + 1
        for output in graph.output:
            uses[output.name] = uses.get(output.name, 0) + 1
        alive = 0  # values of tensors that some node still takes, initializers apart
        sizes: dict[str, int] = {}
        for position, node in enumerate(graph.node):
            results = self._node(position, node)
            for name, result in zip(node.output, results, strict=False):
                if name in self.values:
                    result = Unknown(f"tensor {name!r} is given twice") if name else result
                if not isinstance(result, Unknown):
                    self.followed += 1
                    sizes[name] = result.ids.size if isinstance(result, Labels) else result.size
                    alive += sizes[name]
                self.values[name] = result
            if alive > onnx_glue.LARGEST:
                raise SparseGateError(
                    f"the tensors of the graph hold more than {onnx_glue.LARGEST} values, which is larger than what is followed"
                )
            for name in {*node.input, *node.output}:
                uses[name] = uses.get(name, 0) - sum(1 for taken in node.input if taken == name)
                if uses[name] <= 0 and name in sizes:
                    alive -= sizes.pop(name)
                    del self.values[name]

    def _node(self, position: int, node: NodeProto) -> list[Value]:
        """Outputs of a node; one that cannot be followed gives unknown values, which matter only if something takes them."""
        name, operator = self.names[position], printable(node.op_type)
        at = f"node {name!r} ({operator})"
        count = len(node.output)
        entry = Found(name, operator)
        if node.domain not in onnx_file.DOMAINS or operator not in SUPPORTED:
            of = "" if node.domain in onnx_file.DOMAINS else f" of {printable(node.domain)}"
            entry.problem = f"{at}: the operator {operator}{of} is not supported"
            self.found.append(entry)
            earlier = (value for key in node.input if key and isinstance(value := self.values.get(key), Unknown))
            return [next(earlier, Unknown(entry.problem, unsupported=True))] * count
        inputs = [self.values.get(key, Unknown(f"{at} takes {key!r}, which nothing gives")) for key in node.input]
        listed = operator in RECURRENT + MATRICES and not all(isinstance(value, np.ndarray) for value in inputs)
        if listed:
            entry.layer = True
            self.found.append(entry)
            if self.layers is not None:
                if name not in self.layers:
                    return [Unknown(f"{at} is not among the layers named")] * count
                if isinstance(inputs[0], Unknown):
                    inputs[0] = self._bind(node, inputs[0], inputs)
                for k in range(4, min(7, len(inputs))):  # sequence_lens, initial_h, initial_c
                    if node.input[k] and isinstance(inputs[k], Unknown):
                        inputs[k] = self._bind_given(node, k, inputs)
        unknown = next(
            (value for key, value in zip(node.input, inputs, strict=True) if key and isinstance(value, Unknown)), None
        )
        if unknown is not None:
            if listed:
                entry.problem = unknown.reason
            return [unknown] * count
        try:
            given = [value if key else None for key, value in zip(node.input, inputs, strict=True)]
            if operator in RECURRENT:
                return self._recurrent(node, entry, given)
            if operator in MATRICES:
                return [self._matrix(node, entry, given)]
            return self._other(node, given)
        except SparseGateError as error:
            reason = f"{at}: {error}"
        except (
            ValueError,
            IndexError,
            TypeError,
            OverflowError,
            MemoryError,
        ) as error:  # NumPy's, on a graph that makes no sense
            first = str(error).partition("\n")[0] or type(error).__name__
            reason = f"{at} does not fit its inputs: {first}"
        if not listed:
            self.found.append(entry)
        entry.problem = reason
        return [Unknown(reason)] * count

    def _bind(self, node: NodeProto, before: Unknown, inputs: Sequence[Value]) -> Value:
        """Let the network begin here: a named layer takes what is not followed."""
        key = node.input[0]
        if self._bound is not None:
            return self._bound[1] if self._bound[0] == key else before
        weight = inputs[1] if len(inputs) > 1 else None
        if not isinstance(weight, np.ndarray) or weight.ndim not in (2, 3) or 0 in weight.shape:
            return before
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type in RECURRENT:
            features, batch_first = weight.shape[-1], bool(attributes.get("layout", 0))
        else:
            features, batch_first = weight.shape[1 if attributes.get("transB", 0) else 0], True
        step, sequence = self._grid(batch_first)
        rows = -1 if node.op_type == "Gemm" else step.shape
        try:
            vector = self._vector("input", key, features, None)
            value: Value = self._label(vector, sequence.reshape(rows), step.reshape(rows))
        except SparseGateError as error:
            value = Unknown(str(error))
        self._bound = (key, value)
        return value

    def _bind_given(self, node: NodeProto, position: int, inputs: Sequence[Value]) -> Value:
        """Leave to the caller what a named layer takes as lengths or initial state, where that is not followed."""
        key, before, r = node.input[position], inputs[position], inputs[2]
        if key in self._left:
            return self._left[key]
        if not isinstance(r, np.ndarray) or r.ndim != 3:
            return before
        shape: tuple[int, ...] = (r.shape[0], self.batch, r.shape[2])
        if any(attribute.name == "layout" and attribute.i for attribute in node.attribute):
            shape = (shape[1], shape[0], shape[2])
        if position == 4:
            shape = (self.batch,)
        value = self._handed(key, shape)
        self._left[key] = value
        return value

    # layers

    def _layer(self, name: str, spec: Spec) -> int:
        return self._vector("layer", name, spec.weights.outputs, spec)

    def _recurrent(self, node: NodeProto, entry: Found, given: list[Value | None]) -> list[Value]:
        x, *others = given
        others += [None] * (7 - len(others))
        weights, layout = onnx_cells.recurrent(node, others, self.model.opset)
        directions, units = len(weights), weights[0].units
        entry.what += "" if directions == 1 else ", bidirectional"
        entry.what += ", reverse" if onnx_cells.direction_of(node) == "reverse" else ""
        entry.shape = f"{weights[0].w_x.shape[1]} → {units}"
        if not isinstance(x, Labels) or x.ids.ndim != 3:
            raise SparseGateError("its input X is no sequence of 3 axes")
        self._check_lengths(others[3], required=True)
        ids = x.ids.swapaxes(0, 1) if layout else x.ids  # (T, N, features)
        steps, batch, features = ids.shape
        if features != weights[0].w_x.shape[1]:
            raise SparseGateError(f"its input X has {features} features, but W takes {weights[0].w_x.shape[1]}")
        taken = self.taken(ids)
        if (steps, batch) != (self.steps, self.batch) or np.any(taken.sequence != np.tile(np.arange(batch), steps)):
            raise SparseGateError(
                "its input X does not hold the steps and sequences of the input, time before batch (or as layout says)"
            )
        backwards, slots = self._direction(taken.slots.reshape(steps, batch, -1))
        self.followed += 1  # even if what comes next is refused: time is the right axis
        made = []
        every = np.broadcast_to(np.arange(batch), (steps, batch))
        for d, weight in enumerate(weights):
            reverse = backwards != (onnx_cells.direction_of(node) == "reverse" or d == 1)
            name = entry.name if d == 0 else f"{entry.name}_reverse"
            spec = Spec(name, weight, taken.sources, reverse, final=0 if reverse else self.last)
            for key, value in zip(("h", "c"), others[4:6], strict=True):
                if value is not None and (key == "h" or node.op_type == "LSTM"):
                    self._initial(spec, key, value, d, directions, bool(layout))
            made.append((spec, self._layer(name, spec)))
        entry.specs = [spec for spec, _ in made]
        y = np.stack([self._label(vector, every, slots).ids for _, vector in made], axis=1)  # (T, D, N, H)
        one = np.arange(batch)
        finals, cells = [], []
        for spec, vector in made:
            finals.append(self._label(vector, one, np.full(batch, spec.final)).ids)
            state = self._vector("state", f"the cell state of {spec.name}", units, spec)
            cells.append(self._label(state, one, np.zeros(batch, np.int64)).ids)
        y_h, y_c = np.stack(finals), np.stack(cells)  # (D, N, H)
        if layout:
            y, y_h, y_c = y.transpose(2, 0, 1, 3), y_h.swapaxes(0, 1), y_c.swapaxes(0, 1)
        results: list[Value] = [Labels(y), Labels(y_h)]
        return [*results, Labels(y_c)] if node.op_type == "LSTM" else results

    def _direction(self, slots: NDArray) -> tuple[bool, NDArray]:
        """Whether steps (T, N, sources) run backwards; and their slots (T, N)."""
        now = slots[:, :, 0]
        step = np.arange(self.steps)[:, None]
        if np.all(slots == now[:, :, None]):
            if np.all(now == step):
                return False, now
            if np.all(now == step + self.steps + 2):
                return True, now
            if np.all(now == self.steps - 1 - step):
                if self.lengths is not None:
                    raise SparseGateError(
                        f"its input X is reversed over all steps, those past the lengths {self.lengths!r} included"
                    )
                return True, now
        raise SparseGateError("its input X is neither a sequence nor a reversed one")

    def _check_lengths(self, value: Value | None, required: bool = False) -> None:
        """The lengths of sequences must be the same everywhere: an input of the graph, or all steps."""
        name = None
        if isinstance(value, np.ndarray):
            if value.shape != (self.batch,) or np.any(value != self.steps):
                raise SparseGateError(
                    f"its lengths (sequence_lens) are the constant {np.ravel(value)[:8].tolist()}, expected an input of the graph"
                )
        elif isinstance(value, Labels):
            vector, *_, feature = self._parts(value.ids)
            source = self.vectors[int(vector.ravel()[0])] if vector.size else None
            if (
                source is None
                or source.role != "given"
                or value.ids.shape != (self.batch,)
                or source.size != self.batch
            ):
                raise SparseGateError(
                    "its lengths (sequence_lens) are not an input of the graph, one number a sequence"
                )
            if np.any(vector != vector[0]) or np.any(feature != np.arange(self.batch)):
                raise SparseGateError("its lengths (sequence_lens) are not in the order of the sequences")
            name = source.name
        if self._lengths_known and name != self.lengths:
            raise SparseGateError(
                f"its lengths (sequence_lens) are {name!r}, but those of an earlier node are {self.lengths!r}"
            )
        self.lengths, self._lengths_known = name, True

    def _initial(self, spec: Spec, key: str, value: Value, d: int, directions: int, batch_first: bool) -> None:
        """An initial state: a constant, the same for all sequences, or an input of the graph."""
        array = value.ids if isinstance(value, Labels) else value
        assert isinstance(array, np.ndarray)
        shape = (directions, self.batch, spec.weights.units)
        expected = (shape[1], shape[0], shape[2]) if batch_first else shape
        if array.shape != expected:
            raise SparseGateError(f"initial_{key} has shape {array.shape}, expected {expected}")
        array = array[:, d] if batch_first else array[d]  # (N, units)
        if not isinstance(value, Labels):
            if np.any(array != array[:1]):
                raise SparseGateError(f"initial_{key} differs from sequence to sequence; make it an input of the graph")
            if np.any(array[0]):
                spec.initial[key] = onnx_cells.real(array[0], f"initial_{key}")
            return
        vector, _, _, _ = self._parts(array)
        source = self.vectors[int(vector[0, 0])]
        if (
            source.role != "given"
            or np.any(vector != vector[0, 0])
            or np.any(np.diff(array, axis=1) != 1)
            or np.any(np.diff(array[:, 0]) < 0)
        ):
            raise SparseGateError(
                f"initial_{key} comes from {source.name!r}, expected a constant or an input of its own"
            )
        spec.given[key] = source.name

    def _matrix(self, node: NodeProto, entry: Found, given: list[Value | None]) -> Value:
        kinds = {"alpha": "FLOAT", "beta": "FLOAT", "transA": "INT", "transB": "INT"} if node.op_type == "Gemm" else {}
        attributes = onnx_file.attributes(node, kinds)
        operands: list[Value | None] = [*given, None, None]
        x, weight, bias = operands[:3]
        if not isinstance(x, Labels) or not isinstance(weight, np.ndarray):
            raise SparseGateError("expected a value that depends on the input as A and a constant matrix as B")
        if weight.ndim != 2 or 0 in weight.shape:
            raise SparseGateError(f"its matrix B has shape {weight.shape}, expected (inputs, outputs)")
        if attributes.get("transA", 0):
            raise SparseGateError("transA is 1, expected 0")
        if node.op_type == "Gemm" and x.ids.ndim != 2:
            raise SparseGateError(f"its input A has {x.ids.ndim} axes, expected 2")
        w = onnx_cells.real(weight, "B") if attributes.get("transB", 0) else onnx_cells.real(weight, "B").T
        w = w * attributes.get("alpha", 1.0)
        b = np.zeros(len(w))
        if bias is not None:
            b = self._bias(bias, len(w), 2) * attributes.get("beta", 1.0)
        entry.shape = f"{w.shape[1]} → {w.shape[0]}"
        if x.ids.ndim < 1 or x.ids.shape[-1] != w.shape[1]:
            raise SparseGateError(f"its input A has shape {x.ids.shape}, but its matrix B takes {w.shape[1]}")
        taken = self.taken(x.ids)
        slots = taken.slots[:, 0]
        spec = Spec(entry.name, Weights("linear", w, None, b), taken.sources)
        if np.any(taken.slots != slots[:, None]):
            self._check_final(taken)
            slots = np.full(len(slots), self.several)
            spec.when, spec.final = "final", self.several
        else:
            finals = {
                None if source.spec is None else source.spec.final
                for source in (self.vectors[k] for k in taken.sources)
            }
            spec.final = finals.pop() if len(finals) == 1 else None
        spec.slots = frozenset(slots.tolist())
        entry.specs = [spec]
        rows = x.ids.shape[:-1]
        return self._label(self._layer(entry.name, spec), taken.sequence.reshape(rows), slots.reshape(rows))

    def _check_final(self, taken: Taken) -> None:
        """Refuse values of several steps other than each source's final one."""
        for source, slots in zip(taken.sources, taken.slots.T, strict=True):
            spec = self.vectors[source].spec
            if spec is None or not spec.recurrent or np.any(slots != spec.final):
                raise SparseGateError(
                    "it takes values of several steps that are not the final ones of recurrent layers"
                )

    @staticmethod
    def _bias(bias: Value | None, outputs: int, axes: int) -> NDArray[np.float64]:
        """A constant that is added to each row."""
        if not isinstance(bias, np.ndarray):
            raise SparseGateError("it adds what is no constant")
        if bias.ndim > axes or bias.size not in (1, outputs) or (bias.ndim and bias.shape[-1] != bias.size):
            raise SparseGateError(f"it adds a constant of shape {bias.shape}, expected ({outputs},)")
        return np.broadcast_to(onnx_cells.real(bias, "the constant").ravel(), (outputs,))

    def _elementwise(self, ids: NDArray) -> tuple[int, Spec]:
        """The one matrix layer whose values these are."""
        vector = self._parts(ids)[0]
        first = int(vector.ravel()[0]) if vector.size else -1
        spec = self.vectors[first].spec if first >= 0 else None
        if (
            spec is None
            or self.vectors[first].role != "layer"
            or spec.weights.kind != "linear"
            or np.any(vector != first)
        ):
            raise SparseGateError("it is applied to something other than the result of one matrix")
        return first, spec

    def _again(self, ids: NDArray, first: int, spec: Spec, weights: Weights) -> Labels:
        """The same layer with another bias or activation."""
        spec.replaced = True
        after = replace(spec, weights=weights, replaced=False)
        for entry in self.found:
            entry.specs = [after if known is spec else known for known in entry.specs]
        vector = self._layer(spec.name, after)
        return Labels(ids - self._bases[first] + self._bases[vector])

    # everything else

    def _other(self, node: NodeProto, given: list[Value | None]) -> list[Value]:
        operator = node.op_type
        if operator == "Constant":
            return [self._constant(node)]
        if not given or given[0] is None:
            raise SparseGateError("its first input is missing")
        if operator == "ConstantOfShape":
            attributes = onnx_file.attributes(node, {"value": "TENSOR"})
            shape = onnx_glue.integers(self._array(given, 0), "its shape")
            onnx_glue.bounded(*shape)
            value = onnx_file.array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
            return [np.broadcast_to(value.reshape(()), shape)]
        if operator == "Shape":
            attributes = onnx_file.attributes(node, {"start": "INT", "end": "INT"})
            shape_of = given[0].ids.shape if isinstance(given[0], Labels) else self._array(given, 0).shape
            return [np.array(shape_of[attributes.get("start", 0) : attributes.get("end")], np.int64)]
        if operator == "Cast":
            return [self._cast(node, given)]
        if operator == "Concat":
            axis = onnx_file.attributes(node, {"axis": "INT"}).get("axis", 0)
            if all(isinstance(value, Labels) for value in given):
                return [Labels(onnx_glue.concatenated([value.ids for value in given], axis, True))]  # type: ignore[union-attr]
            return [onnx_glue.concatenated([self._array(given, k) for k in range(len(given))], axis, False)]
        if operator in onnx_glue.MOVES:
            return self._move(node, given)
        if operator == "ReverseSequence":
            return [self._reverse_sequence(node, given)]
        if operator in ACTIVATIONS and len(given) == 1 and isinstance(given[0], Labels):
            onnx_file.attributes(node, {})
            first, spec = self._elementwise(given[0].ids)
            return [self._again(given[0].ids, first, spec, replace(spec.weights, kind=ACTIVATIONS[operator]))]
        if operator == "Add" and sum(isinstance(value, Labels) for value in given) == 1 and len(given) == 2:
            onnx_file.attributes(node, {})
            x, bias = given if isinstance(given[0], Labels) else given[::-1]
            assert isinstance(x, Labels)
            first, spec = self._elementwise(x.ids)
            if self.taken(x.ids).sources != (first,):
                raise SparseGateError("it adds to something other than the result of one matrix")
            added = self._bias(bias, spec.weights.outputs, x.ids.ndim)
            return [self._again(x.ids, first, spec, replace(spec.weights, bias=spec.weights.bias + added))]
        if operator in onnx_glue.ARITHMETIC and all(isinstance(value, np.ndarray) for value in given):
            onnx_file.attributes(node, {})
            if len(given) != (3 if operator == "Where" else 2):
                raise SparseGateError(f"it has {len(given)} inputs")
            return [onnx_glue.computed(operator, [self._array(given, k) for k in range(len(given))])]
        raise SparseGateError("it is supported only on constants, or right behind a matrix")

    @staticmethod
    def _array(given: Sequence[Value | None], position: int) -> NDArray:
        value = given[position] if position < len(given) else None
        if not isinstance(value, np.ndarray):
            raise SparseGateError(f"its input {position} is not a constant")
        return value

    def _constant(self, node: NodeProto) -> NDArray:
        kinds = {
            "value": "TENSOR",
            "value_float": "FLOAT",
            "value_floats": "FLOATS",
            "value_int": "INT",
            "value_ints": "INTS",
        }
        attributes = onnx_file.attributes(node, kinds)
        if len(attributes) != 1:
            raise SparseGateError(f"it has {len(attributes)} values, expected 1")
        ((kind, value),) = attributes.items()
        if kind == "value":
            return onnx_file.array(value)
        return np.array(value, np.float32 if kind.startswith("value_float") else np.int64)

    def _cast(self, node: NodeProto, given: list[Value | None]) -> Value:
        to = onnx_file.attributes(node, {"to": "INT", "saturate": "INT", "round_mode": "STRING"}).get("to", 0)
        (value,) = given
        if isinstance(value, np.ndarray):
            return onnx_glue.cast(value, to)
        assert isinstance(value, Labels)
        vector, *_ = self._parts(value.ids)
        entries = {entry.name: entry.type.tensor_type.elem_type for entry in self.model.graph.input}
        whole = {entries.get(self.vectors[int(v)].name) in INTS for v in np.unique(vector)}
        if whole != {to in INTS} or to not in FLOATS + INTS:
            raise SparseGateError(f"to is ONNX type {to}, which would change values")
        return value

    def _move(self, node: NodeProto, given: list[Value | None]) -> list[Value]:
        move, kinds = onnx_glue.MOVES[node.op_type]
        attributes = onnx_file.attributes(node, kinds) | {
            "outputs": len(node.output),
            "labels": isinstance(given[0], Labels),
        }
        data, *others = given
        rest = [None if value is None else self._array(others, k) for k, value in enumerate(others)]
        if node.op_type == "Dropout" and len(node.output) > 1:
            attributes["outputs"] = 1
        if isinstance(data, Labels):
            results: list[Value] = [Labels(moved) for moved in move(data.ids, rest, attributes, self.model.opset)]
        else:
            assert isinstance(data, np.ndarray)
            results = [np.asarray(moved) for moved in move(data, rest, attributes, self.model.opset)]
        missing = len(node.output) - len(results)
        return results + [Unknown(f"an output of {node.op_type} is not supported")] * missing

    def _reverse_sequence(self, node: NodeProto, given: list[Value | None]) -> Value:
        attributes = onnx_file.attributes(node, {"batch_axis": "INT", "time_axis": "INT"})
        time, batch = attributes.get("time_axis", 0), attributes.get("batch_axis", 1)
        x, lengths = given
        if not isinstance(x, Labels) or x.ids.ndim < 2 or {time, batch} != {0, 1}:
            raise SparseGateError(
                f"time_axis is {time} and batch_axis {batch}, expected the first two axes of a sequence"
            )
        steps = x.ids.shape[time]
        if isinstance(lengths, np.ndarray):
            if lengths.shape != (x.ids.shape[batch],) or np.any(lengths != steps):
                raise SparseGateError(f"sequence_lens is {lengths.ravel()[:8].tolist()}, expected all {steps} steps")
            if steps == 1:
                onnx_glue.refuse_blind(time)
            return Labels(np.flip(x.ids, time))
        ids = x.ids if time == 0 else x.ids.swapaxes(0, 1)
        taken = self.taken(ids)
        self._check_lengths(lengths)
        slot = taken.slots[:, 0].reshape(ids.shape[:-1])
        sequence = taken.sequence.reshape(ids.shape[:-1])
        step = np.arange(len(ids)).reshape(-1, *[1] * (slot.ndim - 1))
        where = np.arange(self.batch).reshape(1, -1, *[1] * (slot.ndim - 2))
        if (
            ids.shape[:2] != (self.steps, self.batch)
            or np.any(taken.slots != taken.slots[:, :1])
            or np.any(sequence != where)
        ):
            raise SparseGateError("it does not reverse whole sequences")
        if np.all(slot == step):
            moved = ids + (self._sizes(ids) * (self.steps + 2))
        elif np.all(slot == step + self.steps + 2):
            moved = ids - (self._sizes(ids) * (self.steps + 2))
        else:
            raise SparseGateError("it does not reverse whole sequences")
        return Labels(moved if time == 0 else moved.swapaxes(0, 1))

    def _sizes(self, ids: NDArray) -> NDArray:
        """Size of the vector of each label: the distance of one slot from the next."""
        return np.array([entry.size for entry in self.vectors])[self._parts(ids)[0]]
