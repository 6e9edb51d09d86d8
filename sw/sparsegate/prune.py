"""Masks on the weights of a torch module, in the user's own training loop: ``attach``, ``step``, ``finish``.

The name by which users know ``sparsegate.training.masks``, and the schedules that go with it.
"""

from __future__ import annotations

from sparsegate.extras import named

with named():
    from sparsegate.training.masks import Annealed, Cubic, Mask, OneShot, Patterns, Pruner, attach, move

__all__ = ["Annealed", "Cubic", "Mask", "OneShot", "Patterns", "Pruner", "attach", "move"]
