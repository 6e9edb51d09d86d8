"""The house: every module has a test file of its name in the mirrored folder, or a line here that says where it is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "sw/sparsegate": "sw",
    "sw/sparsegate_app": "app",
    "hw/sparsegate_hw": "hw",
    "sim/sparsegate_sim": "sim",
}
"""Packages, and the folders of their tests."""
ELSEWHERE: dict[str, list[str]] = {
    "app/bench/test_accuracy.py": [
        "sw/sparsegate_app/bench/accuracy/bench.py",
        "sw/sparsegate_app/bench/accuracy/cases.py",
        "sw/sparsegate_app/bench/accuracy/figures.py",
        "sw/sparsegate_app/bench/accuracy/processes.py",
        "sw/sparsegate_app/bench/accuracy/record.py",
        "sw/sparsegate_app/bench/accuracy_table.py",
        "sw/sparsegate_app/bench/tasks.py",
    ],
    "app/bench/test_cells.py": [
        "sw/sparsegate_app/bench/golden.py",
    ],
    "app/bench/test_performance.py": [
        "sw/sparsegate_app/bench/area.py",
        "sw/sparsegate_app/bench/cpu.py",
        "sw/sparsegate_app/bench/figures.py",
        "sw/sparsegate_app/bench/performance_table.py",
        "sw/sparsegate_app/bench/roofline.py",
        "sw/sparsegate_app/bench/run.py",
        "sw/sparsegate_app/bench/scale.py",
        "sw/sparsegate_app/bench/tools.py",
        "sw/sparsegate_app/bench/workloads.py",
        "sw/sparsegate_app/cli/bench.py",
    ],
    "app/cli/test_cli.py": [
        "sw/sparsegate_app/cli/app.py",
        "sw/sparsegate_app/cli/compile_.py",
        "sw/sparsegate_app/cli/document.py",
        "sw/sparsegate_app/cli/golden.py",
        "sw/sparsegate_app/cli/options.py",
        "sw/sparsegate_app/cli/report.py",
        "sw/sparsegate_app/cli/run.py",
        "sw/sparsegate_app/cli/simulate.py",
        "sw/sparsegate_app/cli/synth.py",
        "sw/sparsegate_app/stages/run.py",
        "sw/sparsegate_app/stages/simulate.py",
    ],
    "app/cli/test_cli_compress.py": [
        "sw/sparsegate_app/cli/allocate.py",
        "sw/sparsegate_app/cli/prune.py",
        "sw/sparsegate_app/cli/quantize.py",
        "sw/sparsegate_app/cli/sensitivity.py",
        "sw/sparsegate_app/cli/train.py",
        "sw/sparsegate_app/console.py",
        "sw/sparsegate_app/stages/prune.py",
        "sw/sparsegate_app/stages/quantize.py",
        "sw/sparsegate_app/stages/train.py",
    ],
    "app/cli/test_cli_failures.py": [
        "sw/sparsegate/errors.py",
    ],
    "app/report/test_report.py": [
        "sw/sparsegate_app/report/collect.py",
        "sw/sparsegate_app/report/page.py",
    ],
    "app/stages/test_lower.py": [
        "sw/sparsegate_app/stages/compile.py",
        "sw/sparsegate_app/stages/golden.py",
    ],
    "app/test_doctor.py": [
        "sw/sparsegate_app/cli/doctor.py",
    ],
    "app/test_surface.py": [
        "sw/sparsegate/prune.py",
    ],
    "hw/arithmetic/test_pipeline.py": [
        "hw/sparsegate_hw/arithmetic/delay.py",
    ],
    "hw/engine/test_dispatcher.py": [
        "hw/sparsegate_hw/arithmetic/constant.py",
    ],
    "hw/engine/test_engine.py": [
        "hw/sparsegate_hw/engine/core.py",
    ],
    "hw/engine/test_lane.py": [
        "hw/sparsegate_hw/engine/cell.py",
        "hw/sparsegate_hw/engine/lane_control.py",
        "sw/sparsegate/array/pipelines.py",
        "sw/sparsegate/array/timing.py",
    ],
    "hw/fabric/test_primitives.py": [
        "sw/sparsegate/fpga/memory.py",
    ],
    "hw/synthesis/test_reprogram.py": [
        "sw/sparsegate_app/cli/patch.py",
    ],
    "sim/test_blocks.py": [
        "sim/sparsegate_sim/benches/encoder.py",
        "sim/sparsegate_sim/benches/pe.py",
        "sim/sparsegate_sim/benches/pipeline.py",
        "sim/sparsegate_sim/pins.py",
    ],
    "sim/test_board.py": [
        "sim/sparsegate_sim/benches/board.py",
        "sim/sparsegate_sim/serial.py",
    ],
    "sim/test_emulate.py": [
        "sim/sparsegate_sim/verilated.py",
    ],
    "sim/test_scoreboard.py": [
        "sim/sparsegate_sim/frames.py",
    ],
    "sim/test_simulate.py": [
        "sim/sparsegate_sim/benches/engine.py",
    ],
    "sw/array/test_layout.py": [
        "sw/sparsegate/array/config.py",
        "sw/sparsegate/array/place.py",
    ],
    "sw/cells/test_cells.py": [
        "sw/sparsegate/cells/bounds.py",
        "sw/sparsegate/cells/cell.py",
        "sw/sparsegate/cells/cifg.py",
        "sw/sparsegate/cells/gru.py",
        "sw/sparsegate/cells/linear.py",
        "sw/sparsegate/cells/lstm.py",
        "sw/sparsegate/cells/matrices.py",
        "sw/sparsegate/cells/peephole.py",
        "sw/sparsegate/cells/rnn.py",
    ],
    "sw/compress/test_search.py": [
        "sw/sparsegate/array/memories.py",
        "sw/sparsegate/array/step.py",
        "sw/sparsegate/compress/budget.py",
        "sw/sparsegate/compress/costs.py",
    ],
    "sw/estimate/test_estimate.py": [
        "sw/sparsegate/array/resources.py",
        "sw/sparsegate/estimate/figures.py",
        "sw/sparsegate/estimate/laws.py",
        "sw/sparsegate/estimate/points.py",
        "sw/sparsegate/estimate/search.py",
        "sw/sparsegate/estimate/sizes.py",
        "sw/sparsegate_app/cli/estimate.py",
    ],
    "sw/fpga/test_family.py": [
        "sw/sparsegate/fpga/ecp5.py",
        "sw/sparsegate/fpga/gowin.py",
        "sw/sparsegate/fpga/ice40.py",
    ],
    "sw/golden/test_model.py": [
        "sw/sparsegate/golden/layer.py",
        "sw/sparsegate/golden/trace.py",
    ],
    "sw/golden/test_temporal.py": [
        "sw/sparsegate/training/quiet.py",
    ],
    "sw/importers/onnx/test_graph.py": [
        "sw/sparsegate/importers/onnx/cells.py",
        "sw/sparsegate/importers/onnx/file.py",
        "sw/sparsegate/importers/onnx/flow.py",
        "sw/sparsegate/importers/onnx/glue.py",
        "sw/sparsegate/importers/onnx/labels.py",
        "sw/sparsegate/importers/onnx/nodes.py",
    ],
    "sw/importers/test_keras.py": [
        "sw/sparsegate/importers/hdf5.py",
    ],
    "sw/importers/test_load.py": [
        "sw/sparsegate_app/cli/import_.py",
    ],
    "sw/importers/test_torch.py": [
        "sw/sparsegate/importers/chain.py",
        "sw/sparsegate/importers/part.py",
        "sw/sparsegate/importers/state_dict.py",
    ],
    "sw/network/test_network.py": [
        "sw/sparsegate/network/checks.py",
        "sw/sparsegate/network/evaluate.py",
        "sw/sparsegate/network/layer.py",
        "sw/sparsegate/network/synthetic.py",
    ],
    "sw/pattern/test_pattern.py": [
        "sw/sparsegate/pattern/bank_balanced.py",
        "sw/sparsegate/pattern/base.py",
        "sw/sparsegate/pattern/block.py",
        "sw/sparsegate/pattern/column_balanced.py",
        "sw/sparsegate/pattern/load_balanced.py",
        "sw/sparsegate/pattern/nm.py",
        "sw/sparsegate/pattern/unstructured.py",
    ],
    "sw/pictures/test_pictures.py": [
        "sw/sparsegate/pictures/columns.py",
        "sw/sparsegate/pictures/curves.py",
        "sw/sparsegate/pictures/histograms.py",
        "sw/sparsegate/pictures/look.py",
        "sw/sparsegate/pictures/matrices.py",
        "sw/sparsegate_app/cli/pictures.py",
    ],
    "sw/program/test_program.py": [
        "sw/sparsegate/program/file.py",
        "sw/sparsegate/program/layer.py",
        "sw/sparsegate/program/limits.py",
        "sw/sparsegate/program/matrix.py",
        "sw/sparsegate/program/states.py",
        "sw/sparsegate/program/validate.py",
    ],
    "sw/quantize/test_build.py": [
        "sw/sparsegate/quantize/config.py",
        "sw/sparsegate/quantize/formats.py",
    ],
    "sw/quantize/test_compensate.py": [
        "sw/sparsegate/quantize/bias.py",
    ],
    "sw/training/test_fake_quant.py": [
        "sw/sparsegate/training/torch_arithmetic.py",
    ],
    "sw/training/test_gumbel.py": [
        "sw/sparsegate/compress/gates.py",
    ],
    "sw/training/test_train.py": [
        "sw/sparsegate/training/checkpoint.py",
        "sw/sparsegate/training/classifier.py",
        "sw/sparsegate/training/objective.py",
        "sw/sparsegate/training/recipe.py",
        "sw/sparsegate/training/trainable.py",
    ],
}
"""Test files, and the modules that they test beside the one of their name."""


def modules() -> dict[str, Path]:
    """Every module by its path, with the test file that its name asks for."""
    return {
        str(module.relative_to(ROOT)): ROOT
        / "tests"
        / tests
        / module.relative_to(ROOT / package).parent
        / f"test_{module.name}"
        for package, tests in ROOMS.items()
        for module in sorted((ROOT / package).rglob("*.py"))
        if module.name not in ("__init__.py", "__main__.py")
    }


def test_every_module_is_tested_somewhere():
    elsewhere = {module for listed in ELSEWHERE.values() for module in listed}
    assert sorted(name for name, test in modules().items() if not test.exists() and name not in elsewhere) == []


@pytest.mark.parametrize("test", ELSEWHERE)
def test_lines_are_needed_and_true(test):
    assert (ROOT / "tests" / test).exists()
    known = modules()
    for module in ELSEWHERE[test]:
        assert module in known
        assert not known[module].exists(), f"{module} has a test file of its own"


def test_every_folder_of_tests_mirrors_a_room():
    folders = {
        path.parent.relative_to(ROOT / "tests")
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.parent.name != "tests"
    }
    packages = {tests: ROOT / package for package, tests in ROOMS.items()}
    for folder in folders:
        room, *inside = folder.parts
        assert packages[room].joinpath(*inside).is_dir(), f"tests/{folder} mirrors no package"
