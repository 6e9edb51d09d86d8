"""Area and cycles of a Program on an array before synthesis, in under a second, and the fastest array that fits a device."""

from __future__ import annotations

from sparsegate.estimate.figures import Clock, Estimate, clock_of, estimate
from sparsegate.estimate.laws import (
    FEWEST,
    SHARE,
    SIZES,
    SPARE,
    errors,
    load_laws,
    load_routed,
    refit,
    routed,
    share,
    write_laws,
)
from sparsegate.estimate.points import MEASURED, POINTS, VERSION, add_point, point, read_points
from sparsegate.estimate.search import SEARCHED, fit, timed
from sparsegate.estimate.sizes import sizes

__all__ = [
    "FEWEST",
    "MEASURED",
    "POINTS",
    "SEARCHED",
    "SHARE",
    "SIZES",
    "SPARE",
    "VERSION",
    "Clock",
    "Estimate",
    "add_point",
    "clock_of",
    "errors",
    "estimate",
    "fit",
    "load_laws",
    "load_routed",
    "point",
    "read_points",
    "refit",
    "routed",
    "share",
    "sizes",
    "timed",
    "write_laws",
]
