"""The FPGAs that SparseGate is built for, by name."""

from __future__ import annotations

from sparsegate.errors import SparseGateError
from sparsegate.fpga.family import Device, families

DEFAULT = "LFE5U-85F"
"""The device where none is named."""
DEVICES = {chip.name: chip for family in families().values() for chip in family.devices}
"""Every device of every family, by name."""
WIDEST = {family.name: family.widest for family in families().values()}
"""Bits of a multiplier's operands."""


def device(name: str) -> Device:
    """A device by its name, in any case; a SparseGateError with the known ones."""
    found = {known.lower(): known for known in DEVICES}.get(name.lower())
    if found is None:
        raise SparseGateError(f"no device is called {name!r}; known are {', '.join(DEVICES)}")
    return DEVICES[found]
