"""What a CPU needs for a step of an LSTM: onnxruntime's 8-bit layer, the alternative that a user has today."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 5
STEPS = 200


def processor() -> str:
    """The CPU's own name, as far as the system tells it, and how many of its cores there are for us."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {cores} cores"


def measure(inputs: int, units: int, threads: tuple[int, ...] = (1, 2)) -> dict[str, Any] | None:
    """Microseconds a step of DynamicQuantizeLSTM with random weights, batch 1, one step a call; None without onnxruntime and onnx.

    The layer alone: no projection, no sparsity. The median of so many calls, of which the best of the repeats counts.
    """
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        return None
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def weights(name: str, columns: int) -> list[Any]:
        values = rng.integers(-127, 128, (1, columns, 4 * units), np.int8)
        scale = np.full(1, 1 / (127 * np.sqrt(columns)), np.float32)
        parts = {name: values, f"{name}_scale": scale, f"{name}_zero": np.zeros(1, np.int8)}
        return [numpy_helper.from_array(value, key) for key, value in parts.items()]

    state = [1, 1, units]
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        ["x", "w", "r", "b", "", "h", "c", "", "w_scale", "w_zero", "r_scale", "r_zero"],
        ["y", "h_out", "c_out"],
        domain="com.microsoft",
        hidden_size=units,
    )
    bias = numpy_helper.from_array(np.zeros((1, 8 * units), np.float32), "b")
    shapes = {"x": [1, 1, inputs], "h": state, "c": state}
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, state) for name in ("h_out", "c_out")],
        [*weights("w", inputs), *weights("r", units), bias],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    feeds = {name: rng.normal(size=shape).astype(np.float32) * 0.1 for name, shape in shapes.items()}
    found: dict[str, Any] = {
        "what": f"onnxruntime {onnxruntime.__version__}, DynamicQuantizeLSTM (int8) {inputs}→{units}, no projection, one step a"
        " call, batch 1, measured in the same run",
        "processor": processor(),
        "us_per_step": {},
    }
    for count in threads:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = count, 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        medians = []
        for _ in range(REPEATS):
            taken = []
            for _ in range(STEPS):
                start = time.perf_counter()
                session.run(None, feeds)
                taken.append(time.perf_counter() - start)
            medians.append(float(np.median(taken)))
        found["us_per_step"][f"{count} thread{'s' if count > 1 else ''}"] = round(1e6 * min(medians), 1)
    return found
