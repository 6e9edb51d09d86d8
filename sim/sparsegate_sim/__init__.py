"""RTL simulation of SparseGate engines: cocotb benches, a scoreboard, and a fast emulator built on Verilator."""
