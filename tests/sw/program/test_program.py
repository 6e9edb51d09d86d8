"""The Program: packing, validation, bounds, digests and files."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sw.shapes import configs, stacks

from sparsegate import artefact, golden
from sparsegate.errors import SparseGateError
from sparsegate.network import synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.numerics.fixed import QFormat
from sparsegate.pattern import NM, blocked, unblocked
from sparsegate.program import FORMAT, VERSION, Matrix, Program, QuantizedLayer
from sparsegate.quantize import QuantizeConfig, quantize

SHAPES = [Shape("lstm", 6, NM(2, 4), NM(1, 4)), Shape("linear", 3)]


def program(seed: int = 1, **config) -> Program:
    network = synthetic.network(5, SHAPES, seed)
    return quantize(network, np.random.default_rng(seed).normal(size=(4, 6, 5)), config=QuantizeConfig(**config))


def changed(made: Program, position: int = 0, **fields) -> Program:
    layers = list(made.layers)
    layers[position] = replace(layers[position], **fields)
    return replace(made, layers=tuple(layers))


@st.composite
def sparse(draw):
    """A dense integer matrix that obeys N nonzeros in every block and column, and its cut."""
    gates, units, columns = draw(st.integers(1, 4)), draw(st.integers(1, 17)), draw(st.integers(1, 6))
    block = draw(st.integers(1, 8))
    entries = draw(st.integers(1, block))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    dense = rng.integers(-9, 10, (gates * units, columns))
    cut = blocked(dense, gates, block)
    keep = np.argsort(np.argsort(rng.random(cut.shape), axis=2), axis=2) < rng.integers(
        0, entries + 1, (*cut.shape[:2], 1, columns)
    )
    cut = np.where(keep, cut, 0)
    return unblocked(cut, units), gates, units, block, entries


@given(sparse())
def test_matrix_pack_round_trip(case):
    dense, gates, units, block, entries = case
    packed = Matrix.pack(dense, gates, block, entries)
    assert packed.index.shape == packed.weight.shape == (-(-units // block) * gates, dense.shape[1], entries)
    assert (packed.dense(gates, units, block) == dense).all()
    assert packed.nonzeros == np.count_nonzero(dense)
    assert (np.diff(packed.index, axis=2) > 0).all()
    assert packed.index.min() >= 0
    assert packed.index.max() < block


def test_block_order_is_unit_block_then_gate():
    dense = np.zeros((8, 1), np.int64)  # 2 gates of 4 units, blocks of 2
    dense[5] = 7  # gate 1, unit 1: unit block 0
    dense[2] = 3  # gate 0, unit 2: unit block 1
    packed = Matrix.pack(dense, 2, 2, 1)
    assert packed.weight[:, 0, 0].tolist() == [0, 7, 3, 0]
    assert packed.index[:, 0, 0].tolist() == [0, 1, 0, 0]


def test_pack_refuses_what_does_not_fit():
    with pytest.raises(SparseGateError, match="m: a column holds 3 nonzeros in a block of 4, expected at most 2"):
        Matrix.pack(np.array([[1], [1], [1], [0]]), 1, 4, 2, "m")
    with pytest.raises(SparseGateError, match="m: 5 entries do not fit a block of 4"):
        Matrix.pack(np.zeros((4, 1), np.int64), 1, 4, 5, "m")


@given(st.integers(0, 100))
def test_the_bound_is_reached_and_never_passed(seed):
    """The worst box corner reaches the bound of the worst unit within half an LSB a column."""
    layer = program(seed % 5).layers[0]
    rng = np.random.default_rng(seed)
    x = rng.integers(layer.formats["x"].min, layer.formats["x"].max + 1, layer.inputs)
    h = rng.integers(layer.formats["h"].min, layer.formats["h"].max + 1, layer.units)
    shift_x, shift_h = (term.shift for term in layer.phases[0].terms)
    value = layer.bias.reshape(-1) + (layer.w_x @ x << shift_x) + (layer.w_h @ h << shift_h)
    assert np.abs(value).max() <= layer.bound
    worst = np.abs(layer.bias.reshape(-1))
    worst = worst + (np.abs(layer.w_x) @ np.full(layer.inputs, 128) << shift_x)
    worst = worst + (np.abs(layer.w_h) @ np.full(layer.units, 128) << shift_h)
    assert layer.bound == worst.max()
    assert layer.bound <= layer.formats["acc"].max


@given(st.integers(0, 50))
def test_shifts_align_all_products(seed):
    shapes = [Shape("lstm", 5, outputs=3), Shape("gru_reset_before", 4), Shape("linear", 2)]
    made = quantize(synthetic.network(3, shapes, seed), np.random.default_rng(seed).normal(size=(2, 4, 3)))
    for phase in made.phases:
        shifts = [term.shift for term in phase.terms]
        for term in phase.terms:
            assert term.form.frac + term.weight.frac + term.shift == phase.formats["acc"].frac
        assert min(shifts) == 0


def test_round_trip_and_digests(tmp_path):
    made = replace(program(), meta={"accuracy": 0.5})
    made.save(tmp_path / "p")
    back = Program.load(tmp_path / "p")
    assert (back.digest, back.shape_digest, back.meta) == (made.digest, made.shape_digest, made.meta)
    for old, new in zip(made.layers, back.layers, strict=True):
        assert (old.w_x == new.w_x).all()
        assert (old.bias == new.bias).all()
        assert (old.w_h is None) == (new.w_h is None)
        assert old.formats == new.formats


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stacks(depth=3), configs, st.integers(0, 99), st.booleans())
def test_every_kind_comes_back_from_its_file(tmp_path, shapes, config, seed, initial):
    network = synthetic.network(3, shapes, seed, initial=initial)
    made = quantize(network, np.random.default_rng(seed).normal(size=(3, 4, 3)), config=config)
    made.save(tmp_path / "p")
    back = Program.load(tmp_path / "p")
    assert (back.digest, back.shape_digest, back.passes) == (made.digest, made.shape_digest, made.passes)
    raw = made.quantize(np.random.default_rng(seed).normal(size=(2, 3, 3)))
    assert (golden.run(back, raw).outputs == golden.run(made, raw).outputs).all()
    assert [vector.name for vector in back.vectors] == [vector.name for vector in made.vectors]


def family() -> Program:
    """A projection, peepholes, a gate summed apart, two phases and both directions."""
    shapes = [
        Shape("lstm_peephole", 6, NM(2, 4), outputs=4, pattern_p=NM(1, 2)),
        Shape("gru", 5),
        Shape("gru_reset_before", 4, both=True),
        Shape("linear", 3, when="final"),
    ]
    return quantize(synthetic.network(3, shapes, seed=1, initial=True), np.random.default_rng(1).normal(size=(3, 4, 3)))


def test_names_of_vectors():
    assert family().vector_names == (
        "input, lstm_peephole0.m, lstm_peephole0, gru1, gru_reset_before2.q, gru_reset_before2, "
        "gru_reset_before2_reverse.q, gru_reset_before2_reverse, linear3"
    )


FAMILY = [
    (0, {"matrix_p": None}, r"formats .* found, expected"),
    (0, {"parameters": {}}, r"parameters \[\] found, expected \['p_f', 'p_i', 'p_o'\]"),
    (
        0,
        {"parameters": dict.fromkeys(("p_i", "p_f", "p_o"), np.zeros(5, int))},
        r"p_i has shape \(5,\), expected \(6,\)",
    ),
    (0, {"parameters": dict.fromkeys(("p_i", "p_f", "p_o"), np.full(6, 128))}, "p_i has values that s8f.* cannot hold"),
    (0, {"parameters": dict.fromkeys(("p_i", "p_f", "p_o"), np.zeros(6))}, "expected .* integers"),
    (0, {"block_p": 0}, "both must be positive"),
    (0, {"block_p": 4}, "wp has entries of shape"),
    (0, {"thresholds": (1,)}, "1 thresholds found, expected 2"),
    (0, {"thresholds": (1, 70000)}, "threshold 70000 found, expected 0 to 65535"),
    (1, {"bias": np.zeros((3, 5), int)}, r"bias has shape \(3, 5\), expected \(4, 5\)"),
    (1, {"kind": "gru_reset_before"}, "formats .* found, expected"),
    (2, {"kind": "gru"}, "formats .* found, expected"),
    (1, {"when": "last"}, "a gru layer cannot run 'last'"),
    (4, {"when": "sometimes"}, "a linear layer cannot run 'sometimes'"),
    (4, {"reverse": True}, "a linear layer has no direction of time"),
    (4, {"sources": (3, 9)}, r"takes vectors \(3, 9\), expected earlier ones, 0 to 4"),
    (4, {"sources": (3,)}, "takes 8 inputs, its source gives 4"),
]


@pytest.mark.parametrize(("position", "change", "message"), FAMILY)
def test_damaged_layers_of_the_family_are_refused(position, change, message):
    with pytest.raises(SparseGateError, match=message):
        changed(family(), position, **change)


def test_projections_only_where_they_belong():
    made = family()
    first, second = made.layers[:2]
    formats = second.formats | {key: first.formats[key] for key in ("m", "wp", "acc_p")}
    with pytest.raises(SparseGateError, match="a gru layer cannot have a projection"):
        changed(made, 1, matrix_p=first.matrix_p, formats=formats)


def test_states_of_a_program():
    made = family()
    zero = {
        layer.name: {key: np.zeros(size, int) for key, size in layer.carried.items()}
        for layer in made.layers
        if layer.carried
    }
    with pytest.raises(SparseGateError, match="states 'h' and 's' of layer 'gru1' disagree; h must be s narrowed"):
        made.states(zero | {"gru1": {"h": np.ones(5, int), "s": np.zeros(5, int)}}, 1)
    with pytest.raises(
        SparseGateError, match="state 'c' of layer 'lstm_peephole0' lies in 40000.*, which s16.* cannot hold"
    ):
        made.states({"lstm_peephole0": {"c": np.full(6, 40000)}}, 1)
    with pytest.raises(SparseGateError, match="holds float64, expected raw integers; use quantize_state first"):
        made.states({"lstm_peephole0": {"c": np.zeros(6)}}, 1)
    with pytest.raises(
        SparseGateError, match="a state is given for 'nobody'; the recurrent layers are: lstm_peephole0, gru1"
    ):
        made.quantize_state({"nobody": {}})
    with pytest.raises(SparseGateError, match="layer 'gru1' has no state 'c'"):
        made.quantize_state({"gru1": {"c": np.zeros(5)}})
    state = {"gru1": {"h": np.array([0.3, -0.7, 0.001, 0.9, -0.999])}}
    raw = made.quantize_state(state)
    back = made.real_state(raw)
    assert np.abs(back["gru1"]["h"] - state["gru1"]["h"]).max() <= made.layers[1].formats["s"].lsb / 2
    assert not back["lstm_peephole0"]["c"].any()
    again = made.quantize_state(back)
    assert all((again[name][key] == raw[name][key]).all() for name in raw for key in raw[name])


def test_digest_tells_contents_and_shape_apart():
    made = program()
    layer = made.layers[0]
    weight = layer.matrix_x.weight.copy()
    weight[0, 0, 0] += 1
    others = [
        changed(made, matrix_x=replace(layer.matrix_x, weight=weight)),
        changed(made, bias=layer.bias + 1),
        made.with_thresholds(2),
    ]
    assert len({each.digest for each in (made, *others)}) == 4
    assert {each.shape_digest for each in others} == {made.shape_digest}
    assert replace(made, meta={"note": 1}).digest == made.digest
    assert changed(made, formats={**layer.formats, "c": QFormat(16, 5)}).shape_digest != made.shape_digest
    assert program(activation_bits=7).shape_digest != made.shape_digest


def test_corrupted_file(tmp_path):
    made = program()
    made.save(tmp_path / "p")
    damaged = bytearray((tmp_path / "p").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "p").write_bytes(damaged)
    with pytest.raises(SparseGateError, match="is corrupted: its contents do not match the digest"):
        Program.load(tmp_path / "p")


def test_valid_digest_and_impossible_contents(tmp_path):
    """A file whose digest fits is validated all the same."""
    made = program()
    made.save(tmp_path / "p")
    tensors, header = artefact.load(tmp_path / "p", FORMAT, VERSION)
    cases = [
        ({"0.index_x": tensors["0.index_x"] + 50}, {}, "has indices in"),
        ({"0.bias": tensors["0.bias"] + (1 << 40)}, {}, "accumulators may reach"),
        ({"1.weight_x": tensors["1.weight_x"] * 100}, {}, "has weights in"),
        ({}, {"input": {"format": "s8f70x", "threshold": 0}}, "damaged header"),
        (
            {},
            {"layers": [header["layers"][0], {**header["layers"][1], "kind": "mgu"}]},
            "unsupported layer kind 'mgu'",
        ),
        ({}, {"layers": [{"name": "x"}]}, "damaged header: KeyError"),
    ]
    for extra, fields, message in cases:
        artefact.save(tmp_path / "q", FORMAT, VERSION, tensors | extra, header | fields)
        with pytest.raises(SparseGateError, match=message):
            Program.load(tmp_path / "q")


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SparseGateError, match="cannot write"):
        program().save(tmp_path / "file" / "program.safetensors")


def damage(made: Program) -> list[tuple[dict, str]]:
    """Fields to break in the first layer, and what is said about each."""
    layer = made.layers[0]
    index, weight = layer.matrix_x.index, layer.matrix_x.weight
    repeated = index.copy()
    repeated[0, 0] = repeated[0, 0, 0]
    beyond = Matrix(np.broadcast_to(np.arange(2, 4), index.shape).copy(), np.ones_like(weight))
    form = dict(layer.formats)
    return [
        ({"matrix_x": Matrix(repeated, weight)}, "an index repeats or descends"),
        ({"matrix_x": Matrix(index - 10, weight)}, "has indices in"),
        ({"matrix_x": Matrix(index, weight + 300)}, "which s8f. cannot hold"),
        ({"matrix_x": Matrix(index[:-1], weight[:-1])}, "has entries of shape"),
        ({"matrix_x": beyond}, "has weights for units beyond the layer's 6"),
        ({"matrix_h": None}, "a lstm layer needs recurrent matrix"),
        ({"bias": layer.bias[:3]}, r"bias has shape \(3, 6\), expected \(4, 6\)"),
        ({"thresholds": (-1,)}, "threshold -1 found, expected 0 to 65535"),
        ({"when": "last"}, "cannot run 'last'"),
        ({"units": 0}, "0 units in blocks of 4, both must be positive"),
        ({"formats": {k: v for k, v in form.items() if k != "c"}}, "formats .* found, expected"),
        ({"formats": {**form, "x": QFormat(8, 1)}}, "input format s8f1 differs from its source's"),
        ({"formats": {**form, "h": QFormat(20, 19)}}, "format h is 20 bits wide, expected 4 to 16"),
        ({"formats": {**form, "acc": QFormat(form["acc"].width, 1)}}, "fewer than its products"),
        ({"formats": {**form, "acc": QFormat(12, form["acc"].frac)}}, "accumulators may reach"),
        ({"formats": {**form, "wh": QFormat(17, form["wh"].frac)}}, "format wh is 17 bits wide, expected 2 to 16"),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(16))
def test_validation(case):
    made = program()
    fields, message = damage(made)[case]
    with pytest.raises(SparseGateError, match=message):
        changed(made, **fields)


def test_chains_are_validated():
    made = program()
    with pytest.raises(SparseGateError, match="at least one layer"):
        replace(made, layers=())
    with pytest.raises(SparseGateError, match="two layers of the Program have the same name"):
        changed(made, 1, name=made.layers[0].name)
    with pytest.raises(SparseGateError, match="runs on the last step only, so another layer must come before"):
        replace(
            program(),
            layers=(replace(made.layers[1], when="last", sources=()),),
            input_format=made.layers[1].formats["x"],
        )
    with pytest.raises(SparseGateError, match="2 thresholds given, expected 1 or 3, for input, lstm0, linear1"):
        made.with_thresholds(1, 2)
    with pytest.raises(SparseGateError, match="input threshold -1 found, expected 0 to 65535"):
        replace(made, input_threshold=-1)


def test_thresholds():
    made = program()
    assert made.with_thresholds(4).thresholds == (4, 4, 4)
    assert made.with_thresholds(1, 2, 3).thresholds == (1, 2, 3)


# --- proofs ------------------------------------------------------------------------------------------------------------


LSTM, LINEAR = 0, 1


def with_format(position: int, key: str, form: QFormat) -> Program:
    made = program()
    return changed(made, position, formats={**made.layers[position].formats, key: form})


def test_bound_does_not_wrap() -> None:
    """Shifted by 56 bits the bound exceeds 63 bits; in int64 it would come out small, and pass."""
    with pytest.raises(SparseGateError, match=r"beyond the exact range of 2\*\*53"):
        with_format(LINEAR, "acc", QFormat(64, 64))


def test_an_intermediate_beyond_63_bits_is_refused() -> None:
    with pytest.raises(SparseGateError, match="beyond 63 bits"):
        with_format(LSTM, "c", QFormat(32, 60))


@pytest.mark.parametrize("key", ["c", "gate"])
def test_values_wider_than_the_models_carry_are_refused(key: str) -> None:
    with pytest.raises(SparseGateError, match=f"format {key} is 62 bits wide, expected 2 to 32"):
        with_format(LSTM, key, QFormat(62, 60))


@pytest.mark.parametrize("threshold", [-1, 65536, 70000])
def test_threshold_that_the_engine_cannot_hold(threshold: int) -> None:
    made = program()
    with pytest.raises(SparseGateError, match=f"threshold {threshold} found, expected 0 to 65535"):
        made.with_thresholds(threshold)
    with pytest.raises(SparseGateError, match=r"thresholds in 0\.\.65535 expected"):
        golden.run(made, np.zeros((1, 1, 5), int), thresholds=(threshold, 0, 0))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(step_bits=5), "step_bits is 5, expected 0 for a layer without tables"),
        (dict(bias=np.zeros((1, 2))), "biases of type float64 found, expected integers"),
    ],
)
def test_fields_that_mean_nothing(fields: dict, sentence: str) -> None:
    with pytest.raises(SparseGateError, match=sentence):
        changed(program(), LINEAR, **fields)


@pytest.mark.parametrize(
    ("key", "form", "sentence"),
    [
        ("pre", QFormat(40, 36), "format pre is 40 bits wide, expected 2 to 18"),
        ("h", QFormat(8, -80), "format h has -80 fractional bits, expected -64 to 64"),
    ],
)
def test_formats_out_of_range(key: str, form: QFormat, sentence: str) -> None:
    with pytest.raises(SparseGateError, match=sentence):
        with_format(LSTM, key, form)


@pytest.mark.parametrize(("shift", "weight"), [(64, 1), (48, -32768), (46, 16384), (50, 1)])
def test_a_shift_that_would_wrap_the_weights_is_refused(shift: int, weight: int) -> None:
    """Shifted in 64 bits, the first of these weights would be 0 and its bound, too."""
    matrix = Matrix(np.zeros((1, 8, 1), np.int64), np.full((1, 8, 1), weight))
    formats = {"x": QFormat(8, 0), "wx": QFormat(16, 0), "h": QFormat(16, 0), "acc": QFormat(64, shift)}
    layer = QuantizedLayer("fc", "linear", 1, 1, "step", formats, 0, matrix, None, np.zeros((1, 1), np.int64))
    with pytest.raises(SparseGateError, match="accumulators may reach|an intermediate of the cell may reach"):
        Program("wrap", QFormat(8, 0), (layer,))


def test_a_block_beyond_reason_is_refused_before_anything_is_unpacked() -> None:
    matrix = Matrix(np.zeros((1, 1, 1), np.int64), np.ones((1, 1, 1), np.int64))
    formats = {"x": QFormat(8, 0), "wx": QFormat(8, 0), "h": QFormat(16, 0), "acc": QFormat(24, 0)}
    layer = QuantizedLayer("fc", "linear", 2, 10**10, "step", formats, 0, matrix, None, np.zeros((1, 2), np.int64))
    with pytest.raises(SparseGateError, match="blocks of 10000000000 units found, expected at most 1024"):
        Program("large", QFormat(8, 0), (layer,))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (("h", "c"), "a state is a tuple, expected layer -> name -> array"),
        ({"lstm0": None}, "the state of layer 'lstm0' is a NoneType"),
        ({"lstm0": {"h": [[1], [1, 2]]}}, "state 'h' of layer 'lstm0' is ragged"),
        ({"lstm0": {"h": "large"}}, "state 'h' of layer 'lstm0' holds <U5, expected numbers"),
        ({"lstm0": {"c": np.full(6, np.nan)}}, "state 'c' of layer 'lstm0' holds 6 NaN or infinite values"),
    ],
)
def test_states_of_the_wrong_kind_are_a_sentence(state: object, sentence: str) -> None:
    network = synthetic.network(3, [Shape("lstm", 6)], seed=1)
    x = np.random.default_rng(1).normal(size=(2, 3, 3))
    made = quantize(network, x)
    for call in (
        lambda: network.evaluate(x, state=state),
        lambda: made.quantize_state(state),
        lambda: golden.run(made, made.quantize(x), state=state),
    ):
        with pytest.raises(SparseGateError, match=re.escape(sentence)):
            call()
