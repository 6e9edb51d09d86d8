"""The command line: help at once, sentences for what goes wrong, and stages that stand alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsegate import artefact
from sparsegate.network import Network, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate.quantize import quantize
from sparsegate_app.cli import app, document

ROOT = Path(__file__).parent.parent.parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ("sw", "hw", "sim"))}


def sparsegate(*words: object, status: int = 0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def files(tmp_path):
    """A small network, its Program, and sequences in an .npz file."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(12, 6, 5))
    length = rng.integers(2, 7, 12)
    network = synthetic.network(5, [Shape("lstm", 8, NM(2, 4), NM(1, 4)), Shape("linear", 3)], seed=1)
    network.save(tmp_path / "network.safetensors")
    quantize(network, x, length).save(tmp_path / "program.safetensors")
    np.savez(tmp_path / "data.npz", x=x, length=length, y=np.arange(12) % 3)
    return tmp_path


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


# --- help and version ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--help",), ("simulate", "--help"), ("--version",)])
def test_nothing_heavy_is_imported_for_help(words):
    code = (
        "import sys\n"
        "from sparsegate_app.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print('LOADED', *sys.modules, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *words]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    loaded = run.stderr.rpartition("LOADED")[2].split()
    assert "typer" in loaded
    heavy = {"numpy", "torch", "amaranth", "matplotlib", "safetensors", "sparsegate_hw", "sparsegate_sim"}
    assert not heavy & {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    "words", [words for words in document.commands() if words not in ((), ("bench",))], ids=" ".join
)
def test_every_command_has_help_with_an_example(words):
    text = " ".join(sparsegate(*words, "--help").stdout.split())
    assert f"Example: sparsegate {' '.join(words)}" in text


def test_the_page_of_commands_is_current(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    assert (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8") == document.document(), (
        "run 'make docs'"
    )


def test_version():
    from sparsegate import __version__

    assert sparsegate("--version").stdout.strip() == __version__


# --- what goes wrong -------------------------------------------------------------------------------------------------


def failure(*words: object, status: int = 1) -> str:
    result = sparsegate(*words, status=status)
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0].removeprefix("error: ")


def test_missing_file(tmp_path):
    assert failure("golden", tmp_path / "none.safetensors") == f"cannot read {tmp_path}/none.safetensors: no such file"


def test_not_a_model(tmp_path):
    (tmp_path / "model.pt").write_text("not a model")
    assert str(tmp_path / "model.pt") in failure("import", tmp_path / "model.pt", "--out", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def saved(path: Path, **layers) -> Path:
    """A state_dict file."""
    import torch

    torch.save(torch.nn.ModuleDict(layers).state_dict(), path)
    return path


def test_import_of_what_cannot_be(tmp_path):
    """Not-a-number weights, an unsupported layer, and shapes that disagree."""
    from torch import nn

    broken = nn.LSTM(3, 4)
    broken.weight_hh_l0.data[1, 2] = float("nan")
    out = ("--out", tmp_path / "out.safetensors")
    said = failure("import", saved(tmp_path / "nan.pt", lstm=broken, fc=nn.Linear(4, 2)), *out)
    assert said == "layer 'lstm': w_h holds 1 NaN or infinite values"
    said = failure("import", saved(tmp_path / "conv.pt", conv=nn.Conv1d(3, 4, 1), fc=nn.Linear(4, 2)), *out)
    assert said.startswith(
        "layer 'conv' (tensors weight (4, 3, 1), bias (4,)) cannot be imported: only nn.LSTM, nn.GRU, nn.RNN"
    )
    said = failure("import", saved(tmp_path / "rnn.pt", rnn=nn.RNN(3, 4), fc=nn.Linear(4, 2)), *out)
    assert said == "layer 'rnn': its nonlinearity is not in a state_dict; name it 'rnn:tanh' or 'rnn:relu'"
    said = failure("import", saved(tmp_path / "shapes.pt", lstm=nn.LSTM(3, 4), fc=nn.Linear(5, 2)), *out)
    assert said.startswith("layer 'fc' takes 5 inputs, but 'lstm' gives 4")
    assert not (tmp_path / "out.safetensors").exists()


def test_linear_layers_in_a_row_are_imported_by_name_only(tmp_path):
    from torch import nn

    path = saved(tmp_path / "model.pt", a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    out = ("--out", tmp_path / "out.safetensors")
    assert "an activation between linear layer 'a' and 'b', which follows it" in failure("import", path, *out)
    sparsegate("import", path, "--layer", "a", "--layer", "b", *out)


def test_inputs_beyond_reason(files):
    data = arrays(files / "data.npz")
    np.savez(files / "huge.npz", **data | {"x": data["x"] * 1e300})
    words = ("--data", files / "huge.npz", "--epochs", 0, "--out", files / "out.safetensors")
    assert "x reaches a magnitude of" in failure("quantize", files / "network.safetensors", *words)
    assert not (files / "out.safetensors").exists()


def test_truncated_program(files):
    whole = (files / "program.safetensors").read_bytes()
    (files / "program.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "is not a readable safetensors file" in failure("golden", files / "program.safetensors")


def test_corrupted_program(files):
    data = bytearray((files / "program.safetensors").read_bytes())
    data[-3] ^= 1
    (files / "program.safetensors").write_bytes(data)
    said = failure("compile", files / "program.safetensors", "--out", files / "build")
    assert "is corrupted: its contents do not match the digest stored in it" in said
    assert not (files / "build").exists()


def test_network_where_a_program_is_expected(files):
    said = failure("golden", files / "network.safetensors")
    assert "holds a sparsegate-network, expected a sparsegate-program" in said


def test_folder_that_compile_did_not_make(tmp_path):
    assert "it has no manifest.json" in failure("simulate", tmp_path)


def test_data_of_another_width(files):
    np.savez(files / "wide.npz", x=np.zeros((4, 3, 7)), length=np.full(4, 3), y=np.arange(4) % 2)
    said = failure("golden", files / "program.safetensors", "--data", files / "wide.npz")
    assert said == "the data set 'wide' has 7 inputs a step, the model takes 5"


def test_more_classes_than_outputs(files):
    np.savez(files / "many.npz", x=np.zeros((12, 3, 5)), length=np.full(12, 3), y=np.arange(12) % 6)
    said = failure("golden", files / "program.safetensors", "--data", files / "many.npz")
    assert "has 6 classes, the model 3 outputs" in said


def test_array_that_cannot_be_built(files):
    said = failure("compile", files / "program.safetensors", "--rows", 6, "--out", files / "build")
    assert "6" in said
    words = ("compile", files / "program.safetensors", "--out", files / "build")
    assert "expected at most 4096" in failure(*words, "--rows", 100000)
    assert failure(*words, "--groups", 0) == "groups is 0, expected 1 or more"
    assert not (files / "build").exists()


def test_pattern_that_is_none(files):
    words = ("prune", files / "network.safetensors", "--data", files / "data.npz", "--pattern", "9:4", "--epochs", 1)
    assert "an N:M pattern needs 1 <= N <= M, not 9:4" in failure(*words, "--out", files / "out.safetensors")
    assert not (files / "out.safetensors").exists()


def test_missing_tool(files, monkeypatch):
    from sparsegate_sim import tools

    monkeypatch.setenv("PATH", str(files))
    tools.icarus.cache_clear()
    words = ("simulate", files / "program.safetensors", "--data", files / "data.npz", "--simulator", "icarus")
    assert (
        failure(*words) == "Icarus Verilog (iverilog and vvp) is not installed; 'apt-get install iverilog' provides it"
    )


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_full_or_read_only_folder(files, monkeypatch, reason):
    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(artefact.os, "replace", refuse)
    words = ("quantize", files / "network.safetensors", "--data", files / "data.npz", "--epochs", 0)
    said = failure(*words, "--out", files / "out" / "program.safetensors")
    assert said == f"cannot write {files}/out/program.safetensors: {os.strerror(reason)}"
    assert list((files / "out").iterdir()) == []


def test_output_below_a_file(files):
    words = ("quantize", files / "network.safetensors", "--data", files / "data.npz", "--epochs", 0)
    said = failure(*words, "--out", files / "data.npz" / "program.safetensors")
    assert said.startswith(f"cannot write {files}/data.npz/program.safetensors: ")


def test_unexpected_errors_are_one_line_too(files, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(Program, "load", broken)
    assert failure("golden", files / "program.safetensors") == (
        "unexpected KeyError: 'surprise' (a bug; 'sparsegate --debug' shows where)"
    )


def test_traceback_only_with_debug(tmp_path):
    result = sparsegate("--debug", "golden", tmp_path / "none.safetensors", status=1)
    assert "Traceback" in result.stderr
    assert result.stderr.rstrip().endswith("no such file")


def test_wrong_option():
    assert "No such option" in sparsegate("golden", "--nonsense", status=2).stderr


def test_ctrl_c_before_the_commands_are_loaded():
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from sparsegate_app.cli import main\n"
    )
    run = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "error: interrupted\n")


def test_ctrl_c_in_the_middle(files):
    out = files / "out" / "pruned.safetensors"
    words = ["prune", "network.safetensors", "--data", "data.npz", "--epochs", "1000000", "--out", str(out)]
    words += [
        "--checkpoint",
        "kept.checkpoint",
    ]  # not in the folder of the output, whether or not an epoch ends in time
    command = [sys.executable, "-m", "sparsegate_app.cli", *words]
    process = subprocess.Popen(
        command, cwd=files, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = process.stderr.readline()
    assert "prune to 4:16" in first
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    assert errors.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in errors
    assert not out.exists()
    assert not out.parent.exists()


# --- stages ----------------------------------------------------------------------------------------------------------


def test_import_reads_a_state_dict(tmp_path):
    import torch

    torch.manual_seed(1)
    model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 4), "fc": torch.nn.Linear(4, 2)})
    torch.save(model.state_dict(), tmp_path / "model.pt")
    out = tmp_path / "network.safetensors"
    result = json.loads(sparsegate("import", tmp_path / "model.pt", "--out", out, "--when", "last", "--json").stdout)
    assert [(layer["kind"], layer["inputs"], layer["units"]) for layer in result["layers"]] == [
        ("lstm", 3, 4),
        ("linear", 4, 2),
    ]
    network = Network.load(out)
    assert network.layers[-1].when == "last"
    assert np.array_equal(network.layers[0].w_x, model["lstm"].weight_ih_l0.detach().double().numpy())


def test_import_lists_what_it_finds(tmp_path):
    import torch

    model = torch.nn.ModuleDict(
        {"lstm": torch.nn.LSTM(3, 4, 2), "conv": torch.nn.Conv1d(3, 4, 1), "fc": torch.nn.Linear(4, 2)}
    )
    torch.save(model.state_dict(), tmp_path / "model.pt")
    words = ("import", tmp_path / "model.pt", "--list", "--out", tmp_path / "out.safetensors")
    found = json.loads(sparsegate(*words, "--json").stdout)["layers"]
    assert [(layer["name"], layer["what"], layer["used"]) for layer in found] == [
        ("lstm", "LSTM", True),
        ("conv", "tensors weight (4, 3, 1), bias (4,)", False),
        ("fc", "Linear", True),
    ]
    assert found[0]["shape"] == "3 → 4, 2 layers"
    assert found[1]["problem"].startswith("only nn.LSTM")
    named = json.loads(sparsegate(*words, "--layer", "fc:relu", "--json").stdout)["layers"]
    assert [layer["used"] for layer in named] == [False, False, True]
    shown = sparsegate(*words).stdout
    assert "3 → 4, 2 layers" in shown
    assert "no: only" in shown
    assert "the model has no layer 'gru'; it has" in failure(*words, "--layer", "gru")
    assert not (tmp_path / "out.safetensors").exists()


def test_import_keeps_a_pattern_of_the_users_own_pruning(tmp_path, files):
    import torch

    from sparsegate.training import masks as prune

    torch.manual_seed(1)
    model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(5, 16), "fc": torch.nn.Linear(16, 3)})
    prune.attach(model, {"lstm": ("2:8", "1:8")}, prune.Cubic(0, 0)).finish()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    out, made = tmp_path / "network.safetensors", tmp_path / "program.safetensors"
    words = ("import", tmp_path / "model.pt", "--out", out)
    for pattern in ("2:8,1:8", "lstm=2:8,1:8"):
        result = json.loads(sparsegate(*words, "--pattern", pattern, "--json").stdout)
        assert [(layer["pattern_x"], layer["pattern_h"]) for layer in result["layers"]] == [
            ("2:8", "1:8"),
            ("1:1", "1:1"),
        ]
        sparsegate("quantize", out, "--data", files / "data.npz", "--epochs", 0, "--out", made)
        layer = Program.load(made).layers[0]
        assert (layer.block, layer.matrix_x.entries, layer.matrix_h.entries) == (8, 2, 1)

    assert "88 % of Wh of layer 'lstm' are zero, and it is taken as dense" in sparsegate(*words).stderr
    assert "layer 'lstm': w_x is not 1:8" in failure(*words, "--pattern", "1:8")
    assert "a pattern is given for 'gru'" in failure(*words, "--pattern", "gru=1:8")
    assert "an N:M pattern is written like '2:16'" in failure(*words, "--pattern", "lstm=half")
    assert "not both" in failure(*words, "--pattern", "2:8", "--pattern", "fc=1:3")
    assert "given twice for 'lstm'" in failure(*words, "--pattern", "lstm=2:8", "--pattern", "lstm=1:8")


def test_the_same_seed_trains_the_same_network(files):
    words = ("train", "--data", files / "data.npz", "--hidden", 4, "--epochs", 2, "--seed", 7, "--out")
    for name in ("a", "b"):
        sparsegate(*words, files / name)
    assert (files / "a").read_bytes() == (files / "b").read_bytes()
    network = Network.load(files / "a")
    assert network.layers[0].units == 4
    assert network.meta["accuracy"].keys() == {"float"}


def test_prune_obeys_its_patterns_and_keeps_accuracies(files):
    out = files / "pruned.safetensors"
    words = ("prune", files / "network.safetensors", "--data", files / "data.npz", "--epochs", 2, "--out", out)
    sparsegate(*words, "--pattern", "2:8", "--pattern-h", "1:8")
    network = Network.load(out)
    assert (str(network.layers[0].pattern_x), str(network.layers[0].pattern_h)) == ("2:8", "1:8")
    assert network.meta["accuracy"].keys() == {"float", "pruned"}


def test_quantize_without_fine_tuning_is_the_python_api(files):
    out = files / "made.safetensors"
    words = ("quantize", files / "network.safetensors", "--data", files / "data.npz", "--weight-bits", 6, "--out", out)
    result = json.loads(sparsegate(*words, "--epochs", 0, "--threshold", 2, "--json").stdout)
    program = Program.load(out)
    assert result["digest"] == program.digest
    assert program.layers[0].formats["wx"].width == 6
    assert program.thresholds == (2, 2, 0)
    assert result["accuracy"]["golden"] == program.meta["accuracy"]["golden"]


def test_golden_counts_what_lies_outside_the_range(files):
    data = arrays(files / "data.npz")
    program = Program.load(files / "program.safetensors")
    limit = program.input_format.real(program.input_format.max)
    x = np.zeros_like(data["x"])
    x[:, 0, 1] = 2 * limit  # one input of every sequence
    np.savez(files / "loud.npz", **data | {"x": x}, x_test=x, length_test=data["length"], y_test=data["y"])
    result = json.loads(
        sparsegate("golden", files / "program.safetensors", "--data", files / "loud.npz", "--json").stdout
    )
    assert result["inputs_saturated"] == 12
    assert result["sequences"] == 12


def test_golden_writes_outputs_and_explains(files):
    out = files / "outputs.npz"
    words = ("golden", files / "program.safetensors", "--data", files / "data.npz", "--out", out, "--json")
    result = json.loads(sparsegate(*words, "--trace", files / "network.safetensors").stdout)
    written = arrays(out)
    assert written["outputs"].shape[0] == result["sequences"] == len(written["y"])
    assert float(np.mean(written["predicted"] == written["y"])) == result["accuracy"]
    assert [row["site"] for row in result["trace"] if row["layer"] == "lstm0"] == [
        "i",
        "f",
        "g",
        "o",
        "c",
        "tanh_c",
        "h",
    ]


def test_thresholds_change_what_is_sent(files):
    words = ("golden", files / "program.safetensors", "--data", files / "data.npz", "--json", "--threshold")
    skipped = [json.loads(sparsegate(*words, theta).stdout)["columns"]["skipped"] for theta in (0, 40)]
    assert skipped[0] < skipped[1]
    assert "2 thresholds given, expected 1 or 3" in failure(*words, 1, "--threshold", 2)


def test_board_that_is_simulated(files):
    words = ("run", files / "program.safetensors", "--port", "simulated", "--data", files / "data.npz", "--json")
    result = json.loads(sparsegate(*words).stdout)
    assert result["mismatches"] == 0
    assert result["values_compared"] == 3 * result["steps"]
    assert result["cycles_per_step"] is None  # the golden model has no clock


def test_port_that_is_not_there(files):
    words = ("run", files / "program.safetensors", "--port", files / "no-port", "--data", files / "data.npz")
    assert f"cannot open port {files}/no-port" in failure(*words)


def test_board_that_is_unknown(files):
    said = failure("synth", files / "program.safetensors", "--board", "no-board", "--out", files / "build")
    assert "no board is called 'no-board'; known are " in said
    assert "ulx3s-85f" in said


def test_from_compile_to_report(files):
    """A compiled folder collects what the stages find in it."""
    compiled = json.loads(
        sparsegate(
            *("compile", files / "program.safetensors", "--rows", 4, "--groups", 2),
            *("--data", files / "data.npz", "--out", files / "build", "--json"),
        ).stdout
    )
    folder = Path(compiled["folder"])
    assert compiled["pes"] == 8
    assert (folder / "engine.v").exists()
    data = ("--data", files / "data.npz", "--json")
    checked = json.loads(sparsegate("golden", folder, *data).stdout)
    simulated = json.loads(sparsegate("simulate", folder, *data, "--simulator", "amaranth", "--sequences", 2).stdout)
    assert simulated["passed"]
    assert simulated["rtl"]["mismatches"] == 0
    assert simulated["cycles"]["predicted"] == simulated["cycles"]["counted"]
    assert simulated["columns"]["seen"] > simulated["columns"]["skipped"]
    report = json.loads(sparsegate("report", folder, *data).stdout)
    assert report["accuracy"]["golden"] == checked["accuracy"]
    assert report["rtl"]["values_compared"] == simulated["rtl"]["values_compared"]
    assert report["hardware"]["groups"] == 2
    assert (folder / "report.html").exists()

    # another array is another compilation: nothing of it is left in this folder
    before = sorted(path.name for path in folder.iterdir())
    sparsegate("simulate", folder, *data, "--simulator", "amaranth", "--sequences", 1, "--groups", 1)
    assert json.loads((folder / "simulate-amaranth.json").read_text())["rtl"] == simulated["rtl"]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_compiled_folder_is_the_same_every_time(files):
    digests = []
    for out in ("one", "two"):
        result = json.loads(sparsegate("compile", files / "program.safetensors", "--out", files / out, "--json").stdout)
        folder = Path(result["folder"])
        contents = {name: (folder / name).read_bytes() for name in result["files"]}
        digests.append((folder.name, contents))
    assert digests[0] == digests[1]


def test_a_difference_is_an_error(files, monkeypatch):
    from sparsegate_app.stages import simulate

    program, data = Program.load(files / "program.safetensors"), np.load(files / "data.npz")
    right = simulate.simulate(program, data["x"][:1, :2], simulator="amaranth")
    wrong = replace(right, passed=False, said="1 differs; first: step 3, unit 5")
    monkeypatch.setattr(simulate, "simulate", lambda *_, **__: wrong)
    said = failure("simulate", files / "program.safetensors", "--data", files / "data.npz")
    assert said == "1 differs; first: step 3, unit 5"
