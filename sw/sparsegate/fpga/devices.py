"""What the FPGAs have that SparseGate is built for."""

from __future__ import annotations

from dataclasses import dataclass

from sparsegate.errors import SparseGateError

WIDEST = {"ecp5": 18, "ice40": 16, "gowin": 18}
"""Bits of a multiplier's operands."""


@dataclass(frozen=True)
class Device:
    """An FPGA.

    ``luts`` 4-input look-up tables, ``ffs`` flip-flops, ``bram`` block RAMs (18 kbit on ECP5 and Gowin, 4 kbit on
    iCE40), ``dsp`` multipliers (18 bits on ECP5 and Gowin, 16 on iCE40), ``sprams`` single-port memories of 16,384 words of 16
    bits. ``option`` is what its nextpnr calls it, ``package`` that of a bare device, ``speed`` its speed grade, ``clock_hz`` the
    clock that designs are built for where none is asked for.
    """

    name: str
    family: str
    option: str
    package: str
    speed: str
    luts: int
    ffs: int
    bram: int
    dsp: int
    clock_hz: int
    sprams: int = 0

    @property
    def fabric(self) -> str:
        """Devices of one fabric and speed grade have the same delays: all sizes of an ECP5, and else each by itself."""
        return self.family if self.family == "ecp5" else self.name


def _ecp5() -> dict[str, Device]:
    # nextpnr lets a 12F have all of the 25F that it is cut from
    sizes = {"12": (24288, 56, 28), "25": (24288, 56, 28), "45": (43848, 108, 72), "85": (83640, 208, 156)}
    found = {}
    for prefix, option, speed in (("LFE5U", "", "6"), ("LFE5UM", "um-", "6"), ("LFE5UM5G", "um5g-", "8")):
        for size, (luts, bram, dsp) in sizes.items():
            if size == "12" and prefix != "LFE5U":
                continue
            name = f"{prefix}-{size}F"
            found[name] = Device(name, "ecp5", f"--{option}{size}k", "BG381", speed, luts, luts, bram, dsp, 80_000_000)
    return found


DEVICES = _ecp5() | {
    "iCE40UP5K": Device("iCE40UP5K", "ice40", "--up5k", "SG48", "", 5280, 5280, 30, 8, 20_250_000, 4),
    "iCE40HX8K": Device("iCE40HX8K", "ice40", "--hx8k", "CT256", "", 7680, 7680, 32, 0, 36_000_000),
    "GW2A-18": Device("GW2A-18", "gowin", "GW2A-LV18", "PG256", "C8/I7", 20736, 15552, 46, 48, 54_000_000),
}
"""Every device, by name: the ECP5 with and without transceivers, iCE40, and a Gowin."""


def device(name: str) -> Device:
    """A device by its name, in any case; a SparseGateError with the known ones."""
    found = {known.lower(): known for known in DEVICES}.get(name.lower())
    if found is None:
        raise SparseGateError(f"no device is called {name!r}; known are {', '.join(DEVICES)}")
    return DEVICES[found]
