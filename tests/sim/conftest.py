"""What the simulation tests share."""

from __future__ import annotations

import os
from pathlib import Path

# compiled simulations are kept between runs, as a user's are: they are addressed by content
os.environ.setdefault("SPARSEGATE_BUILD", str(Path(__file__).parents[2] / "build"))
