"""``python -m sparsegate_app.cli``."""

from __future__ import annotations

from sparsegate_app.cli import main

main()
