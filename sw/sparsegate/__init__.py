"""SparseGate: from a trained recurrent network to a sparse, bit-exact FPGA accelerator.

This package is the library: import, prune, quantize, the integer Program, golden and cycle models. Nothing here imports Amaranth
or cocotb; torch is imported only by what trains, prunes or imports torch models.

The names below are found when they are asked for: ``import sparsegate`` alone loads nothing. ``prune``, ``quantize``, ``golden``,
``estimate``, ``host`` and ``pattern`` are modules; ``load``, ``compile``, ``evaluate``, ``simulate`` and ``synth`` are functions.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "HardwareConfig": "sparsegate.array:HardwareConfig",
    "Layout": "sparsegate.array:Layout",
    "Network": "sparsegate.network:Network",
    "Program": "sparsegate.program:Program",
    "QuantizeConfig": "sparsegate.quantize:QuantizeConfig",
    "SparseGateError": "sparsegate.errors:SparseGateError",
    "compile": "sparsegate_app.stages.compile:compile_",
    "estimate": "sparsegate.estimate",
    "evaluate": "sparsegate_app.stages.golden:evaluate",
    "golden": "sparsegate.golden",
    "host": "sparsegate.host",
    "load": "sparsegate.importers:load",
    "pattern": "sparsegate.pattern",
    "prune": "sparsegate.prune",
    "quantize": "sparsegate.quantize",
    "simulate": "sparsegate_app.stages.simulate:simulate",
    "synth": "sparsegate_app.stages.synth:synth",
}
"""Where each name lives. A table, not imports: the stages are in the application, above this library, which does not know them.

``__init__.pyi`` says the same to type checkers and editors.
"""

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_NAMES)}")
    from importlib import import_module

    from sparsegate.extras import named

    module, _, attribute = _NAMES[name].partition(":")
    with named():
        found: Any = import_module(module)
    if attribute:
        found = getattr(found, attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
