"""Two networks that others trained, on speech that neither saw: accuracy of float and integers, RTL, time to compile.

``sparsegate bench real`` runs it. The data stay outside of the project; without them a model is skipped, with the reason.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate import golden, importers, quantize
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.data import features
from sparsegate.errors import SparseGateError
from sparsegate.network import Network, normalize
from sparsegate.network.normalize import Scaling
from sparsegate.numerics.fixed import QFormat, frac_for
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig, compensate
from sparsegate_app.bench.metered import compile_cost
from sparsegate_sim.simulate import simulate

DATA = Path("../shared/data")
VARIABLE = "SPARSEGATE_DATA"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST = range(5)
"""Recordings of each speaker and digit in FSDD's official test set; the others are for training."""
TRAIN = range(5, 10)
"""Training recordings that calibrate formats and enrol speakers: 50 of each speaker."""
BATCH = 50
"""Clips that run at once, which bounds memory."""
FINER = 4
"""Input ranges that are tried: the whole, and this many times half of the one before."""

Say = Callable[[str], None]
LAYERS_OF_ENCODER = ("lstm", "linear:relu")

FSDD = "Free Spoken Digit Dataset, official test set: 300 recordings (6 speakers, 10 digits, index 0 to 4)"
COMMANDS = {
    "model": "3-layer LSTM 12→64→64→64 with a linear head of 35 classes on the last frame, trained on Speech Commands",
    "source": "felixchenfy/Speech-Commands-Classification-by-LSTM-PyTorch, good_weights/kaggle.ckpt, MIT",
    "data": FSDD,
    "features": "8 kHz resampled to 16 kHz (librosa, polyphase), centred in one second of zeros; librosa's MFCC with"
    " n_mfcc = 12: 32 frames",
    "definition": "accuracy_35: share of recordings whose digit has the largest of all 35 outputs; accuracy_10: the largest"
    " of the ten digits' outputs. Float: Network.evaluate in float64. Golden: the bit-exact integer model.",
    "quantization": "8-bit inputs, weights and activations. Every input column shifted and scaled (normalize.balance), exactly"
    " undone in Wx and bias; weights rounded column by column, errors made up for (compensate.compensate). Calibrated on 300"
    " training recordings (index 5 to 9), without their labels.",
}
SPEAKERS = {
    "model": "3-layer LSTM 40→256→256→256, linear 256→256 with ReLU on the last frame, L2 norm: a GE2E speaker encoder",
    "source": "PyPI package resemblyzer, pretrained.pt (model_state), Apache-2.0; read with weights_only=True, the package is"
    " not imported",
    "data": FSDD,
    "features": "8 kHz resampled to 16 kHz (librosa, polyphase), amplified to at least -30 dB mean power, repeated to fill"
    " 1.6 s; power mel spectrogram of 40 bands (25 ms windows, every 10 ms): one partial utterance of 160 frames",
    "definition": "cosine: between the golden and the float embedding of a recording; cosine_50: of every sixth test recording,"
    " cosine_300: of all. identification: share of the 300 test recordings whose speaker's enrolment is the nearest by cosine; a"
    " speaker is enrolled by the mean embedding of 50 training recordings (index 5 to 9), with the same arithmetic as the tests.",
    "quantization": "8-bit weights, 16-bit inputs (a power spectrum without logarithm spans six decades), activations as listed."
    " Input columns scaled (normalize.balance) and read twice, so that Wx has 15 bits (normalize.double); weights rounded column"
    " by column, errors made up for (compensate.compensate). Calibrated on 60 training recordings (index 5).",
}


@dataclass(frozen=True)
class Clip:
    """A recording of FSDD."""

    path: Path
    digit: int
    speaker: str
    index: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """A Program and what is done to its inputs before they are quantized."""

    program: Program
    scaling: Scaling

    def raw(self, x: NDArray) -> NDArray[np.int64]:
        """Features (N, T, I) to the Program's raw inputs."""
        return self.program.quantize(self.scaling(x))

    def outputs(self, x: NDArray) -> NDArray[np.float64]:
        """Golden outputs at the last step, (N, outputs) real."""
        program = self.program
        return program.output_format.real(_batched(lambda part: golden.run(program, self.raw(part)).last, x))


def data_folder(given: Path | None) -> Path:
    """The folder of third-party data: the one given, else of SPARSEGATE_DATA, else ``../shared/data``."""
    if given is not None and not given.is_dir():
        raise SparseGateError(f"--data-dir names {given}, expected a folder")
    return given or Path(os.environ.get(VARIABLE) or DATA)


def missing(folder: Path) -> dict[str, str]:
    """Why a model cannot be measured, by the model's key; nothing where it can."""
    common = []
    if not fsdd_folder(folder).is_dir():
        common.append(
            f"there is no FSDD in {fsdd_folder(folder)}; name the data's folder with --data-dir or {VARIABLE}"
        )
    if importlib.util.find_spec("librosa") is None:
        common.append("librosa is not installed; run pip install 'sparsegate[real]'")
    own: dict[str, list[str]] = {"speech_commands": [], "speaker_encoder": []}
    if not checkpoint_of_commands(folder).is_file():
        own["speech_commands"].append(f"there is no {checkpoint_of_commands(folder)}")
    if checkpoint_of_encoder() is None:
        own["speaker_encoder"].append("the package resemblyzer is not installed; run pip install --no-deps resemblyzer")
    return {key: "; ".join(why + common) for key, why in own.items() if why + common}


def fsdd_folder(folder: Path) -> Path:
    return folder / "fsdd" / "recordings"


def checkpoint_of_commands(folder: Path) -> Path:
    return folder / "speech_commands_lstm" / "good_weights" / "kaggle.ckpt"


def checkpoint_of_encoder() -> Path | None:
    """Where resemblyzer's weights are; the package itself, and what it depends on, is not imported."""
    spec = importlib.util.find_spec("resemblyzer")
    found = [Path(root) / "pretrained.pt" for root in (spec.submodule_search_locations or [])] if spec else []
    return next((path for path in found if path.is_file()), None)


def clips(folder: Path, indices: Sequence[int]) -> list[Clip]:
    """FSDD's recordings of the given indices, in name order: digit_speaker_index.wav."""
    found = []
    for path in sorted(fsdd_folder(folder).glob("*_*_*.wav")):
        digit, speaker, index = path.stem.split("_")
        if int(index) in indices:
            found.append(Clip(path, int(digit), speaker, int(index)))
    return found


def cepstra(clip: Clip) -> NDArray[np.float64]:
    """Features of the speech-commands model, (32, 12)."""
    return features.mfcc(features.centred(features.speech(clip.path), features.RATE), 12)


def spectrum(clip: Clip) -> NDArray[np.float64]:
    """One partial utterance for the speaker encoder, (160, 40)."""
    frames, hop = 160, 160
    samples = features.tiled(features.at_least(features.speech(clip.path), -30), frames * hop)
    return features.mel(samples, bands=40, window=400, hop=hop)[:frames]


@dataclass(frozen=True, eq=False)
class Rounded:
    """A network with scaled inputs and rounded weights, and what it was made of."""

    float: Network
    network: Network
    weights: tuple[Mapping[str, QFormat], ...]
    scaling: Scaling


def rounded(network: Network, x: NDArray, centre: bool, double: bool) -> Rounded:
    """Scale the inputs of a network and round its weights to 8 bits, on calibration data x (N, T, I)."""
    scaling = normalize.balance(network, x, centre=centre)
    scaled, config = normalize.fold(network, scaling), QuantizeConfig()
    if double:
        largest = float(np.abs(scaled.layers[0].w_x).max())
        form = QFormat(config.weight_bits, frac_for(largest, config.weight_bits))
        scaled, scaling = normalize.double(scaled, form, scaling)
    columns = scaling(x)
    formats = quantize.choose_formats(scaled, quantize.calibrate(scaled, columns), config)
    made, formats = compensate.compensate(scaled, formats, columns)
    weights = tuple({key: value for key, value in form.items() if key in ("wx", "wh")} for form in formats)
    return Rounded(network, made, weights, scaling)


def fitted(source: Rounded, x: NDArray, config: QuantizeConfig, input_bits: int) -> Prepared:
    """The Program of given widths.

    Its input spans the largest calibration value, or the half, quarter ... of it that gives outputs nearest to float, by their
    mean cosine on the calibration data: what is rare and large may saturate. A range whose deltas would not fit the multiplier is
    passed over.
    """
    columns = source.scaling(x)
    chosen = quantize.choose_formats(source.network, quantize.calibrate(source.network, columns), config)
    formats = [form | dict(weights) for form, weights in zip(chosen, source.weights, strict=True)]
    widest = frac_for(float(np.abs(columns).max()), input_bits)
    wanted = evaluated(source.float, x)
    best: tuple[float, Prepared] | None = None
    for finer in range(FINER):
        formats[0]["x"] = QFormat(input_bits, widest + finer)
        made = Prepared(quantize.build(source.network, formats, config), source.scaling)
        if operand(made.program) > config.operand_bits:
            continue
        score = float(np.mean(cosines(made.outputs(x), wanted)))
        if best is not None and score <= best[0]:
            break
        best = score, made
    if best is None:
        raise SparseGateError(
            f"{input_bits}-bit inputs need a multiplier of {operand(made.program)} bits, expected at most {config.operand_bits}"
        )
    return best[1]


def unscaled(network: Network, x: NDArray) -> Prepared:
    """The Program of plain 8-bit quantization: inputs as they are, every weight rounded to the nearest."""
    return Prepared(quantize.quantize(network, x), Scaling(np.zeros(network.inputs), np.ones(network.inputs)))


def operand(program: Program) -> int:
    """Bits of the widest shifted delta of a Program."""
    terms = [term for layer in program.layers for phase in layer.phases for term in phase.terms]
    return max(term.form.width + 1 + term.shift for term in terms)


def evaluated(network: Network, x: NDArray) -> NDArray[np.float64]:
    """Float outputs at the last step, (N, outputs)."""
    return _batched(lambda part: network.evaluate(part).last, x)


def _batched(run: Callable[[NDArray], NDArray], x: NDArray) -> NDArray:
    return np.concatenate([run(x[start : start + BATCH]) for start in range(0, len(x), BATCH)])


def cosines(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Cosine of the angle between rows; 0 where a row is all zero."""
    return (unit(a) * unit(b)).sum(axis=1)


def unit(rows: NDArray) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def accuracies(outputs: NDArray, digits: NDArray, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy of the speech-commands model on digits: among all classes, and among the ten digits."""
    places = np.array([classes.index(name) for name in DIGITS])
    return {
        "accuracy_35": _share(outputs.argmax(axis=1) == places[digits]),
        "accuracy_10": _share(outputs[:, places].argmax(axis=1) == digits),
    }


def identified(
    tests: NDArray, enrolled: NDArray, speakers: Sequence[str], enrolled_speakers: Sequence[str]
) -> NDArray[np.bool_]:
    """Which test embeddings are nearest, by cosine, to the mean of their own speaker's enrolled embeddings."""
    names = sorted(set(enrolled_speakers))
    of = np.array(enrolled_speakers)
    means = unit(np.stack([unit(enrolled)[of == name].mean(axis=0) for name in names]))
    nearest = (unit(tests) @ means.T).argmax(axis=1)
    return np.array(names)[nearest] == np.array(speakers)


def _share(right: NDArray[np.bool_]) -> float:
    return round(float(np.mean(right)), 6)


def rtl(program: Program, config: HardwareConfig, raw: NDArray[np.int64]) -> dict[str, Any]:
    """Stream raw sequences through the Verilated engine: what was compared, and what differed."""
    result = simulate(program, config, raw)
    predicted = cycles.predict(golden.run(program, raw), Layout(program, config))
    return {
        "simulator": result.simulator,
        "rows": config.rows,
        "groups": config.groups,
        "sequences": result.sequences,
        "steps": result.steps,
        "values_compared": result.values_compared,
        "mismatches": result.mismatches,
        "cycle_mismatches": result.cycle_mismatches,
        "counter_mismatches": len(result.counter_mismatches),
        "cycles_counted": result.cycles_counted,
        "cycles_predicted": predicted.total,
        "occupancy_matvec": round(predicted.occupancy_matvec, 4),
        "seconds": round(result.seconds, 1),
    }


def formats_of(program: Program) -> dict[str, dict[str, str]]:
    """Formats of every layer's columns, weights and output, for the record."""
    keys = ("x", "wx", "wh", "h", "acc")
    return {
        layer.name: {key: str(layer.formats[key]) for key in keys if key in layer.formats} for layer in program.layers
    }


def measure(folder: Path, with_rtl: bool, say: Say) -> dict[str, dict[str, Any]]:
    """Both models' records by their keys; why it was skipped of one whose data or packages are missing.

    ``with_rtl``: with RTL, and what it takes to import and compile the larger one.
    """
    skipped = missing(folder)
    models: dict[str, dict[str, Any]] = {key: {"skipped": f"skipped, because {why}"} for key, why in skipped.items()}
    if "speech_commands" not in skipped:
        models["speech_commands"] = speech_commands(folder, with_rtl, say)
    if "speaker_encoder" not in skipped:
        checkpoint = checkpoint_of_encoder()
        assert checkpoint is not None  # else it would be among the skipped
        models["speaker_encoder"], program = speaker_encoder(folder, checkpoint, with_rtl, say)
        if with_rtl:
            say("speaker encoder: import and compile")
            models["speaker_encoder"]["compile"] = compile_cost(checkpoint, LAYERS_OF_ENCODER, program)
    return models


def speech_commands(folder: Path, with_rtl: bool, say: Say) -> dict[str, Any]:
    """Real model 1: a keyword classifier."""
    say("speech commands: features")
    tests, train = clips(folder, TEST), clips(folder, TRAIN)
    x, calibration = (np.stack([cepstra(clip) for clip in group]) for group in (tests, train))
    digits = np.array([clip.digit for clip in tests])
    names = folder / "speech_commands_lstm" / "config" / "classes_kaggle.names"
    classes = names.read_text(encoding="utf-8").split()
    say("speech commands: import, round, quantize")
    network = importers.load(checkpoint_of_commands(folder), layers=["lstm", "fc"], when="last", name="speech-commands")
    made = fitted(rounded(network, calibration, centre=True, double=False), calibration, QuantizeConfig(), 8)
    exact, ours = evaluated(network, x), made.outputs(x)
    of_float, of_golden = accuracies(exact, digits, classes), accuracies(ours, digits, classes)
    naive = unscaled(network, calibration)
    result: dict[str, Any] = COMMANDS | {
        "recordings": len(tests),
        "calibration_recordings": len(train),
        "float": of_float,
        "golden": of_golden,
        "loss_points": {key: round(100 * (of_float[key] - of_golden[key]), 2) for key in of_float},
        "same_class_as_float": _share(exact.argmax(axis=1) == ours.argmax(axis=1)),
        "golden_without_scaling_and_compensation": accuracies(naive.outputs(x), digits, classes),
        "formats": formats_of(made.program),
    }
    if with_rtl:
        say("speech commands: RTL")
        chosen = [
            next(i for i, clip in enumerate(tests) if clip.digit == digit and i % 6 == digit % 6) for digit in range(10)
        ]
        result["rtl"] = rtl(made.program, HardwareConfig(rows=16, groups=2), made.raw(x[chosen]))
        result["rtl"]["recordings"] = [tests[i].path.name for i in chosen]
    return result


def speaker_encoder(folder: Path, checkpoint: Path, with_rtl: bool, say: Say) -> tuple[dict[str, Any], Program]:
    """Real model 2: a speaker encoder. Also returns its Program, for what is measured of compilation."""
    say("speaker encoder: features")
    tests, enrolment = clips(folder, TEST), clips(folder, TRAIN)
    x, enrolled = (np.stack([spectrum(clip) for clip in group]) for group in (tests, enrolment))
    calibration = enrolled[[clip.index == TRAIN[0] for clip in enrolment]]
    speakers, own = ([clip.speaker for clip in group] for group in (tests, enrolment))
    say("speaker encoder: import, round")
    network = importers.load(checkpoint, layers=LAYERS_OF_ENCODER, when="last", name="speaker-encoder")
    source = rounded(network, calibration, centre=False, double=True)
    exact, exact_own = evaluated(network, x), evaluated(network, enrolled)
    some = slice(None, None, len(tests) // 50)
    rows: list[dict[str, Any]] = []
    best: Prepared | None = None
    for bits in (8, 10):
        say(f"speaker encoder: golden, {bits}-bit activations")
        made = fitted(source, calibration, QuantizeConfig(activation_bits=bits), 16)
        ours, ours_own = made.outputs(x), made.outputs(enrolled)
        row: dict[str, Any] = {"activation_bits": bits, "input_bits": 16, "weight_bits": 8}
        row["input_format"] = str(made.program.input_format)
        row["cosine_50"] = _spread(cosines(ours, exact)[some])
        row["cosine_300"] = _spread(cosines(ours, exact))
        row["identification"] = _share(identified(ours, ours_own, speakers, own))
        rows.append(row)
        if best is None and row["cosine_50"]["median"] >= 0.99:
            best = made
    best = best or made
    say("speaker encoder: what each step is worth")
    some_x, some_exact = x[some], exact[some]
    worth = {
        "none of it, 8-bit inputs, 8-bit activations": unscaled(network, calibration),
        "all but the doubled columns, 16-bit inputs, 10-bit activations": fitted(
            rounded(network, calibration, centre=False, double=False),
            calibration,
            QuantizeConfig(activation_bits=10),
            16,
        ),
        "all of it, 8-bit inputs, 10-bit activations": fitted(
            source, calibration, QuantizeConfig(activation_bits=10), 8
        ),
        "all of it, 12-bit inputs, 10-bit activations": fitted(
            source, calibration, QuantizeConfig(activation_bits=10), 12
        ),
    }
    result: dict[str, Any] = SPEAKERS | {
        "recordings": len(tests),
        "clips": len(range(len(tests))[some]),
        "enrolled_recordings": len(enrolment),
        "calibration_recordings": len(calibration),
        "weights": int(sum(layer.w_x.size + (0 if layer.w_h is None else layer.w_h.size) for layer in network.layers)),
        "float": {"identification": _share(identified(exact, exact_own, speakers, own))},
        "golden": rows,
        "median_cosine_50_of_variants": {
            what: _spread(cosines(made.outputs(some_x), some_exact))["median"] for what, made in worth.items()
        },
        "formats": formats_of(best.program),
    }
    if with_rtl:
        say("speaker encoder: RTL of one clip")
        result["rtl"] = rtl(best.program, HardwareConfig(rows=16, groups=4), best.raw(x[:1]))
        result["rtl"]["recordings"] = [tests[0].path.name]
    return result, best.program


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    """Median and tails of a distribution."""
    low, tenth, median = np.percentile(values, [0, 10, 50])
    return {"min": round(float(low), 5), "p10": round(float(tenth), 5), "median": round(float(median), 5)}


def table(models: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of a table: model, what, float, golden or RTL."""
    rows: list[tuple[str, ...]] = []
    for key, model in models.items():
        if "skipped" in model:
            rows.append((key, model["skipped"], "", ""))
            continue
        if key == "speech_commands":
            for classes in ("35", "10"):
                figures = [f"{100 * model[side][f'accuracy_{classes}']:.1f} %" for side in ("float", "golden")]
                rows.append((key, f"accuracy among {classes} classes, 8 bits", *figures))
        else:
            for row in model["golden"]:
                bits = f"{row['activation_bits']}-bit activations"
                rows.append(
                    (key, f"median cosine of {model['clips']} clips, {bits}", "1", f"{row['cosine_50']['median']:.4f}")
                )
                figures = [f"{100 * side['identification']:.1f} %" for side in (model["float"], row)]
                rows.append((key, f"speakers identified, {bits}", *figures))
        if "rtl" in model:
            found = model["rtl"]
            what = f"RTL, {found['sequences']} sequences, {found['values_compared']} values: values, cycles, counters that differ"
            differ = (found[name] for name in ("mismatches", "cycle_mismatches", "counter_mismatches"))
            rows.append((key, what, "", ", ".join(map(str, differ))))
        for stage in ("import", "compile"):
            if "compile" in model:
                spent = model["compile"][stage]
                rows.append((key, f"sparsegate {stage}", "", f"{spent['seconds']} s, {spent['megabytes']} MB"))
    return rows
