"""``python -m sparsegate.cli``."""

from __future__ import annotations

from sparsegate.cli import main

main()
