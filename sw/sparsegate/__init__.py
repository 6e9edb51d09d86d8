"""SparseGate: from a trained LSTM to a sparse, bit-exact FPGA accelerator.

This room holds the numbers: import, prune, quantize, the integer program, golden and cycle models, report. Nothing here
imports Amaranth or cocotb; torch is imported only by the modules that train, prune, calibrate or import torch models.
"""

__version__ = "0.1.0"
