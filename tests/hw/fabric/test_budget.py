"""What a design may take of a device."""

from __future__ import annotations

from sparsegate_hw.fabric.budget import Fabric, fabric, family
from sparsegate_hw.synthesis import boards


def test_small_multiplications_take_what_is_spared_for_them() -> None:
    some = Fabric("ecp5", 4, spare=1)
    assert [some.take(1, small=True) for _ in range(2)] == [True, False]
    assert [some.take(1) for _ in range(4)] == [True, True, True, False]
    assert not Fabric("ecp5", 4).take(1, small=True)


def test_a_fabric_is_a_platform_or_a_platforms() -> None:
    ecp5 = boards.target("ulx3s-85f").fabric()
    assert fabric(ecp5) is ecp5
    assert fabric(None) is None
    platform = boards.target("ulx3s-45f").platform()
    assert fabric(platform) == Fabric("ecp5", 72)


def test_a_fabrics_cells_are_its_familys() -> None:
    ecp5 = boards.target("ulx3s-85f").fabric()
    assert family(ecp5) is ecp5.cells
    assert family(boards.target("icebreaker").platform()).name == "ice40"
    assert family(None) is None
