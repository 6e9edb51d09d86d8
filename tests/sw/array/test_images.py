from __future__ import annotations

import numpy as np
import pytest

from sparsegate.array import HardwareConfig, Layout
from sparsegate.array.images import images, memory_bits, table_image
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig, quantize

SHAPES = {
    "lstm": (Shape("lstm", 10, NM(1, 4), NM(2, 4)), Shape("linear", 3)),
    "gru": (Shape("gru", 10, NM(1, 4), NM(2, 4)), Shape("linear", 3)),
    "peephole": (Shape("lstm_peephole", 6, NM(1, 2), NM(1, 2)), Shape("cifg_peephole", 5)),
}


def layout(config: QuantizeConfig | None = None, shapes: tuple[Shape, ...] = SHAPES["lstm"]) -> Layout:
    x = np.random.default_rng(0).normal(size=(2, 4, 5))
    return Layout(quantize(network(5, shapes, 0), x, config=config), HardwareConfig(8, 2, cluster=4))


def fields(word: int, widths: list[int]) -> list[int]:
    """Two's complement fields of a word, the least significant first."""
    found = []
    for width in widths:
        value = word & ((1 << width) - 1)
        found.append(value - (1 << width) if value >> (width - 1) else value)
        word >>= width
    assert word == 0
    return found


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
def test_words_unpack_to_weights_biases_and_parameters(shapes: tuple[Shape, ...]) -> None:
    placed = layout(shapes=shapes)
    by_name = {image.name: image for image in images(placed)}
    index, weight = placed.weights()
    for row in range(8):
        for group in range(2):
            image = by_name[f"weights_{row}_{group}"]
            assert image.width == placed.index_width + placed.weight_width
            words = np.array(image.words)
            assert (words & ((1 << placed.index_width) - 1) == index[row, group]).all()
            signed = words >> placed.index_width
            signed = np.where(signed >= 1 << (placed.weight_width - 1), signed - (1 << placed.weight_width), signed)
            assert (signed == weight[row, group]).all()
    bias, real = placed.biases()
    constants, (count, width) = placed.constants(), placed.parameters
    assert count == max(len(layer.parameters) for layer in placed.program.layers)
    for lane in range(placed.lanes):
        image = by_name[f"biases_{lane}"]
        widths = [placed.bias_bits] * placed.sums + [width] * count
        assert image.width == 1 + sum(widths)
        for position, word in enumerate(image.words):
            assert word & 1 == real[lane, position]
            expected = [*bias[lane, position].tolist(), *constants[lane, position].tolist()]
            assert fields(word >> 1, widths) == expected


def test_hex_is_one_word_a_line_of_fixed_width() -> None:
    for image in images(layout()):
        lines = image.hex().splitlines()
        assert [int(line, 16) for line in lines] == list(image.words)
        assert {len(line) for line in lines} == {-(-image.width // 4)}


def test_tables_appear_once_and_carry_their_slopes() -> None:
    placed = layout(QuantizeConfig(activation_bits=12, table_bits=6))
    names = [image.name for image in images(placed)]
    assert len(names) == len(set(names))
    assert sum(name.startswith(("sigmoid", "tanh")) for name in names) == 2
    from sparsegate.numerics.tables import table

    form = placed.program.layers[0].formats
    image = table_image(table("tanh", form["pre"], form["gate"], placed.program.layers[0].step_bits))
    assert image.width > form["gate"].frac + 1
    assert memory_bits(placed)["weights"] == 16 * placed.weight_depth * placed.entry_width
