"""Accuracy of every way of compression on real tasks, over seeds: ``make bench-accuracy``.

A *case* is what one row of the table measures: how a network is trained, pruned and quantized. Rows and networks are kept in a work
folder as soon as they are there, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from sparsegate_app.bench.accuracy.bench import THETAS, Bench
from sparsegate_app.bench.accuracy.cases import PLANS, Case, Plan, plan_of
from sparsegate_app.bench.accuracy.processes import Progress, measure
from sparsegate_app.bench.accuracy.record import forget, means, merged

__all__ = [
    "PLANS",
    "THETAS",
    "Bench",
    "Case",
    "Plan",
    "Progress",
    "forget",
    "means",
    "measure",
    "merged",
    "plan_of",
]
