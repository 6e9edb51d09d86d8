"""Facts of families: widths, and which RAM a memory becomes."""

from __future__ import annotations

import pytest

from sparsegate.fpga.family import families, family


def test_families_are_found_in_the_folder():
    assert list(families()) == ["ecp5", "ice40", "gowin"]
    assert [each.label for each in families().values()] == ["ECP5", "iCE40", "Gowin"]
    assert [each.an for each in families().values()] == ["an ECP5", "an iCE40", "a Gowin"]
    assert [each.widest for each in families().values()] == [18, 16, 18]
    assert [each.read_bits for each in families().values()] == [36, 16, 36]


@pytest.mark.parametrize("of", ["ecp5", "ice40", "gowin"])
def test_block_shapes_are_of_one_size(of):
    """Words of 9 bits or more have a ninth bit for every eight, where there are any."""
    shapes = family(of).block_shapes
    sizes = {words * (bits if bits < 9 or bits == 16 else bits // 9 * 8) for words, bits in shapes}
    assert sizes == {4096 if of == "ice40" else 16384}
    assert [bits for _, bits in shapes] == sorted((bits for _, bits in shapes), reverse=True)


def test_the_shape_of_a_block_ram_for_so_many_words():
    of = family("ice40")
    assert [of.block_shape(depth) for depth in (1, 256, 257, 2048, 5000)] == [
        (256, 16),
        (256, 16),
        (512, 8),
        (2048, 2),
        (2048, 2),
    ]


def test_memories_that_are_read_and_written_every_cycle():
    ecp5, ice40, gowin = families().values()
    assert [ecp5.scratch_blocks(20, 40, block) for block in (False, True)] == [0, 1]
    # Yosys chooses the shape: 300 words of 20 bits are cheapest in words of 8
    assert ice40.scratch_blocks(20, 40, False) == ice40.fewest_blocks(20, 40) == 2
    assert ice40.scratch_blocks(20, 300, False) == 3
    shapes = ((18, 40), (19, 40), (36, 512), (37, 40), (36, 513))
    assert [gowin.scratch_blocks(*shape, False) for shape in shapes] == [0, 1, 1, 0, 0]
