from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.hw.blocks import small_program

from sparsegate import artefact
from sparsegate.array import HardwareConfig, Layout
from sparsegate.array.images import images
from sparsegate.errors import SparseGateError
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.program import Program
from sparsegate_hw.synthesis.emit import Manifest, build_folder, describe, emit, verilog_digest


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_emission_is_complete_and_the_same_every_time(tmp_path: Path) -> None:
    program, config = small_program(), HardwareConfig(8, 2, 1)
    manifest = emit(program, config, tmp_path / "a")
    emit(program, config, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for name, digest in manifest.content["files"].items():
        assert hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() == digest
    again = Manifest.load(tmp_path / "a")
    assert again.content == manifest.content
    assert again.config == config
    assert Program.load(again.program).digest == program.digest == manifest.content["digests"]["program"]
    layers = manifest.content["layout"]["layers"]
    proofs = [phase["accumulator"] for layer in layers for phase in layer["phases"]]
    assert [proof["bound"] for proof in proofs] == [phase.bound for phase in program.phases]
    assert all(proof["bound"] <= proof["max"] == (1 << (proof["width"] - 1)) - 1 for proof in proofs)


def test_every_layer_is_a_row_and_every_phase_of_it_has_its_proof() -> None:
    program = small_program(
        Shape("gru_reset_before", 6, NM(1, 2), NM(1, 2), both=True),
        Shape("lstm_peephole", 5, outputs=3),
        Shape("linear", 2, when="last"),
    )
    layout = Layout(program, HardwareConfig(8, cluster=4))
    content = describe(layout)
    assert artefact.canonical(content)  # JSON values only
    assert not content["streams"]
    rows = content["layers"]
    assert [row["name"] for row in rows] == [layer.name for layer in program.layers]
    assert [row["sources"] for row in rows] == [
        ["input"],
        ["input"],
        ["gru_reset_before0", "gru_reset_before0_reverse"],
        ["lstm_peephole1"],
    ]
    assert [row["reverse"] for row in rows] == [False, True, False, False]
    assert [row["parameters"] for row in rows] == [[], [], ["p_i", "p_f", "p_o"], []]
    assert [row["states"] for row in rows] == [{"h": 6, "s": 6}, {"h": 6, "s": 6}, {"h": 3, "c": 5}, {}]
    assert [row["projection"] and row["projection"]["outputs"] for row in rows] == [None, None, 3, None]
    assert [[phase["name"] for phase in row["phases"]] for row in rows] == [
        ["gru_reset_before0.q", "gru_reset_before0"],
        ["gru_reset_before0_reverse.q", "gru_reset_before0_reverse"],
        ["lstm_peephole1.m", "lstm_peephole1"],
        ["linear2"],
    ]
    assert [[phase["columns"] for phase in row["phases"]] for row in rows[1:]] == [
        [["x", "h"], ["x", "q"]],
        [["x", "h"], ["m"]],
        [["x"]],
    ]
    proofs = [(p["accumulator"]["bound"], p["accumulator"]["width"]) for row in rows for p in row["phases"]]
    assert proofs == [(phase.bound, phase.formats["acc"].width) for phase in program.phases]
    assert [entry["layers"] for entry in content["passes"]] == [
        [name] for name in ("gru_reset_before0", "gru_reset_before0_reverse")
    ] + [["lstm_peephole1", "linear2"]]


def test_a_plain_lstm_pays_for_nothing_that_other_cells_need(tmp_path: Path) -> None:
    def verilog(*shapes: Shape, **hardware: Any) -> str:
        return emit(small_program(*shapes), HardwareConfig(12, **hardware), tmp_path / "made").verilog.read_text()

    signs = {
        "a state port": "state_port",
        "a second accumulator": "accumulators_apart",
        "a parameter": "parameter_",
        "a sequence buffer": "too_long",
    }
    recurrent = NM(1, 2)
    plain = verilog(Shape("lstm", 6, recurrent, recurrent), Shape("linear", 2))
    assert [what for what, sign in signs.items() if sign in plain] == []
    # and the signs are right: each is there where it is needed
    others = {
        "a state port": verilog(Shape("lstm", 6), states=True),
        "a second accumulator": verilog(Shape("gru", 6)),
        "a parameter": verilog(Shape("lstm_peephole", 6)),
        "a sequence buffer": verilog(Shape("lstm", 6, both=True)),
    }
    for what, text in others.items():
        assert [other for other, sign in signs.items() if sign in text] == [what]


def test_verilog_holds_the_images(tmp_path: Path) -> None:
    """The memory contents in the Verilog are the images' words, in order."""
    program, config = (
        small_program(Shape("lstm_peephole", 10, NM(1, 4), NM(2, 4)), Shape("linear", 3)),
        HardwareConfig(4),
    )
    verilog = emit(program, config, tmp_path).verilog.read_text()
    written = re.findall(r"^\s*\S+\[(\d+)\] = \d+'h([0-9a-f]+);$", verilog, re.M)
    runs: list[list[int]] = []
    for address, word in written:
        if address == "0":
            runs.append([])
        runs[-1].append(int(word, 16))
    layout = Layout(program, config)
    for image in images(layout):
        assert list(image.words) in runs, f"{image.name} is not in the Verilog"


def test_contents_change_the_program_but_not_the_shape() -> None:
    one, two = small_program(seed=1), small_program(seed=2)
    assert one.digest != two.digest
    assert build_folder(one, HardwareConfig(8)) != build_folder(two, HardwareConfig(8))
    assert build_folder(one, HardwareConfig(8)) != build_folder(one, HardwareConfig(4))


def test_a_name_never_leaves_the_build_folder() -> None:
    from dataclasses import replace

    program = replace(small_program(), name="../../etc/passwd")
    assert build_folder(program, HardwareConfig(8), "build").parent == Path("build")


def test_a_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SparseGateError, match="cannot write"):
        emit(small_program(), HardwareConfig(8), tmp_path / "file")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error) -> None:
    refuse_the_second_write(monkeypatch, error)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else SparseGateError
    with pytest.raises(expected) as raised:
        emit(small_program(), HardwareConfig(8), tmp_path / "made")
    assert list(tmp_path.iterdir()) == []
    if expected is SparseGateError:
        assert str(raised.value).startswith(f"cannot write {tmp_path}/made/images/")
        assert str(raised.value).endswith(": No space left on device")


def refuse_the_second_write(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    whole, calls = Path.write_text, []

    def write_text(path: Path, text: str, **options: Any) -> int:
        if path.suffix == ".il":  # what Yosys reads
            return whole(path, text, **options)
        calls.append(path)
        if len(calls) == 2:
            whole(path, text[: len(text) // 2], **options)
            raise error
        return whole(path, text, **options)

    monkeypatch.setattr(artefact.Path, "write_text", write_text)


def test_a_failure_keeps_the_folder_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emit(small_program(seed=1), HardwareConfig(8), tmp_path / "made")
    before = tree(tmp_path)
    refuse_the_second_write(monkeypatch, OSError(errno.ENOSPC, "full"))
    with pytest.raises(SparseGateError):
        emit(small_program(seed=2), HardwareConfig(8), tmp_path / "made")
    assert tree(tmp_path) == before


def test_a_folder_that_is_there_is_kept_or_replaced(tmp_path: Path) -> None:
    program, config = small_program(), HardwareConfig(8)
    folder = tmp_path / "made"
    manifest = emit(program, config, folder)
    assert manifest.content["files"]["engine.v"] == verilog_digest(program, config)
    whole = tree(folder)
    (folder / "mine.txt").write_text("mine")
    inode = folder.stat().st_ino
    emit(program, config, folder)
    assert folder.stat().st_ino == inode  # the same contents: nothing moved
    (folder / "engine.v").write_text("damaged")
    (folder / "images" / "old.hex").write_text("0")
    emit(program, config, folder)
    assert tree(folder) == whole | {"mine.txt": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
