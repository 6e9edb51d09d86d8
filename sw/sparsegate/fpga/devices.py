"""The FPGAs that SparseGate is built for, by name."""

from __future__ import annotations

from sparsegate.errors import SparseGateError
from sparsegate.fpga.family import Device, families

DEFAULT = "LFE5U-85F"
"""The device where none is named."""
DEVICES = {chip.name: chip for family in families().values() for chip in family.devices}
"""Every device of every family, by name."""


def device(name: str) -> Device:
    """A device by its name, in any case; a SparseGateError with the known ones."""
    found = {known.lower(): known for known in DEVICES}.get(name.lower())
    if found is None:
        raise SparseGateError(f"no device is called {name!r}; known are {', '.join(DEVICES)}")
    return DEVICES[found]


def kind_of_multipliers(chip: Device, asked: str | None = None) -> str:
    """What multipliers are made of: "dsp", the device's own, or "logic"; the default is what the device has.

    Raises
    ------
    SparseGateError
        If it is something else, or the device has none.
    """
    if asked not in (None, "dsp", "logic"):
        raise SparseGateError(f"multipliers are made of {asked!r}, expected 'dsp' or 'logic'")
    if asked == "dsp" and not chip.dsp:
        raise SparseGateError(f"{chip.name} has no multipliers; use --multipliers logic")
    return asked or ("dsp" if chip.dsp else "logic")
