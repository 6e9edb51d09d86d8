"""What a command takes is measured in a process of its own."""

from __future__ import annotations

import pytest

from sparsegate.errors import SparseGateError
from sparsegate_app.bench.metered import metered


def test_what_a_command_takes_is_metered(tmp_path):
    cost = metered(["doctor"], str(tmp_path))
    assert min(cost["seconds"], cost["cpu_seconds"]) > 0
    assert cost["megabytes"] > 10  # Python itself takes more


def test_a_metered_command_that_fails_says_why(tmp_path):
    with pytest.raises(SparseGateError, match="'sparsegate compile' failed: .*missing.safetensors"):
        metered(["compile", "missing.safetensors"], str(tmp_path))
