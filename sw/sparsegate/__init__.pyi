from sparsegate import estimate, golden, host, pattern, prune, quantize
from sparsegate.array import HardwareConfig, Layout
from sparsegate.errors import SparseGateError
from sparsegate.importers import load
from sparsegate.network import Network
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate_app.stages.compile import compile_ as compile  # noqa: A004 (a name of this package, though Python has a function of that name)
from sparsegate_app.stages.golden import evaluate
from sparsegate_app.stages.simulate import simulate
from sparsegate_app.stages.synth import synth

__version__: str

__all__ = [
    "HardwareConfig",
    "Layout",
    "Network",
    "Program",
    "QuantizeConfig",
    "SparseGateError",
    "__version__",
    "compile",
    "estimate",
    "evaluate",
    "golden",
    "host",
    "load",
    "pattern",
    "prune",
    "quantize",
    "simulate",
    "synth",
]
