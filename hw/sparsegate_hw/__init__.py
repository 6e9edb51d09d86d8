"""SparseGate's hardware: the engine, its blocks, boards, Verilog emission and synthesis. Nothing here imports torch or cocotb."""
