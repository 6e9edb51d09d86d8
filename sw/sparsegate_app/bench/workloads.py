"""Networks of the size of the published engines, with real inputs, and the devices they are built for.

Weights are trained where a trained network of the size exists, random in the pattern elsewhere; inputs are real wherever the data
are there. Networks are made the same way every time, from seeds, and kept in a work folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact, quantize
from sparsegate.array import HardwareConfig
from sparsegate.compress import magnitude
from sparsegate.data import datasets, features
from sparsegate.errors import MissingData, SparseGateError
from sparsegate.network import Network, normalize, synthetic
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import DENSE, NM
from sparsegate.program import Program
from sparsegate.quantize import QuantizeConfig
from sparsegate_app.bench import real

VERSION = 1
"""Counts up when a change of this module makes networks of an earlier one invalid."""
SEED = 1
EPOCHS = 30, 40
"""Of training and of pruning the vowels: enough for a network that is worth running, in well under a minute."""
CALIBRATION = 60
"""Recordings that a network is pruned and its formats are calibrated on."""
CLIPS = 10
"""Recordings, one of each digit, that a workload runs."""
FLOOR = 1e-6
"""Power below this counts as this much, before the logarithm."""
LARGE = QuantizeConfig(table_bits=6)
"""Of the largest arrays: interpolated tables are small enough for logic, so that block RAM is left to the weights."""
SMALL = QuantizeConfig(
    activation_bits=5,
    weight_bits=5,
    pre_bits=9,
    table_bits=8,
    state_bits=12,
    output_bits=12,
    calibration="mse",
    operand_bits=16,
)
"""Of an iCE40 UP5K with its 30 block RAMs: one for a PE's accumulators, one for a table, two for a PE's weights."""
RANDOM = (
    "random weights in the pattern, as no network of this size was trained here: what its hidden states skip says nothing of a"
    " trained one, and the case with nothing skipped is the one that counts"
)
FRAMES = 24
"""Steps of random inputs, where the data are missing."""


@dataclass(frozen=True, eq=False)
class Work:
    """A Program and raw inputs for it: ``raw`` (N, T, I), zero past the ``lengths`` (N,)."""

    program: Program
    raw: NDArray[np.int64]
    lengths: NDArray[np.int64]
    network: str
    inputs: str


@dataclass(frozen=True)
class Published:
    """What others report; ``source`` says where it stands, ``ours`` is never in it."""

    system: str
    figures: str
    source: str


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    ``make`` takes the folder of the data and one to keep networks in. ``alternative``: LSTM inputs and units that the CPU runs for
    comparison. ``mhz``: the clock that is asked of place-and-route; the device's usual one where it says nothing. ``seeds``: so
    many placements are tried, from the first on, and the fastest counts. ``cell``: others report their cell without its
    surroundings, so the engine is synthesized alone, too. ``stretch``: larger arrays, of which cycles are counted and area is
    estimated. ``packed``: arrays that are synthesized and packed, but not placed: more points for
    the laws of area than there are hours to route.
    """

    name: str
    about: str
    device: str
    config: HardwareConfig
    make: Callable[[Path, Path], Work]
    published: tuple[Published, ...] = ()
    alternative: tuple[int, int] | None = None
    mhz: int | None = None
    seeds: int = 1
    cell: bool = False
    stretch: tuple[HardwareConfig, ...] = ()
    packed: tuple[HardwareConfig, ...] = ()

    @property
    def hertz(self) -> int | None:
        """The clock that is asked for; None: the device's."""
        return self.mhz and self.mhz * 1_000_000


def _kept(folder: Path, name: str, key: str, make: Callable[[], Work]) -> Work:
    """A Program and its inputs, made once for each key."""
    digest = hashlib.sha256(f"{VERSION} {key}".encode()).hexdigest()[:12]
    program, inputs = (folder / f"{name}-{digest}{ending}" for ending in (".safetensors", ".npz"))
    if not inputs.exists():
        made = make()
        made.program.save(program)
        words = np.array([made.network, made.inputs])
        with artefact.writing(inputs) as temporary, temporary.open("wb") as file:
            np.savez(file, raw=made.raw, lengths=made.lengths, words=words)
    with np.load(inputs, allow_pickle=False) as found:
        return Work(Program.load(program), found["raw"], found["lengths"], *map(str, found["words"]))


def vowels(folder: Path, work: Path) -> Work:
    """Trained here: an LSTM of 64 units that tells nine speakers, at 1:8."""
    from sparsegate import training

    first, second = EPOCHS

    def made() -> Work:
        data = datasets.japanese_vowels()
        network = training.train_float(data, hidden=64, epochs=first, seed=SEED, when="last")
        network = training.prune_and_finetune(network, data, "1:8", epochs=second, seed=SEED)
        program = quantize.quantize(network, data.x_train, data.length_train, SMALL)
        reached = training.accuracy(program, data.x_test, data.length_test, data.y_test)
        return Work(
            program,
            *_utterances(data, program),
            "trained here, pruned to 1:8, dense head on the last step, weights and activations of 5 bits; golden accuracy"
            f" {100 * reached:.1f} % of {len(data.y_test)} test utterances",
            f"{CLIPS} test utterances of JapaneseVowels",
        )

    return _kept(work, "vowels", f"{first} {second} {SEED} {SMALL}", made)


def _utterances(data: datasets.Dataset, program: Program) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Raw test utterances from all over the test part, and their lengths."""
    rows = slice(0, None, len(data.x_test) // CLIPS)
    return program.quantize(data.x_test[rows][:CLIPS]), data.length_test[rows][:CLIPS]


def keywords(folder: Path, work: Path) -> Work:
    """Trained by others on Speech Commands, pruned to 1:8."""
    _need(folder, "speech_commands")
    from sparsegate import importers

    def opened() -> Network:
        return importers.load(real.checkpoint_of_commands(folder), layers=["lstm", "fc"], name="speech-commands")

    return _of_others(folder, work, "keywords", opened, "1:8", real.cepstra, QuantizeConfig(), centre=True)


def encoder(folder: Path, work: Path) -> Work:
    """Trained by others to tell speakers, pruned to 2:32."""
    _need(folder, "speaker_encoder")
    from sparsegate import importers

    checkpoint = real.checkpoint_of_encoder()

    def opened() -> Network:
        return importers.load(checkpoint, layers=real.LAYERS_OF_ENCODER, name="speaker-encoder")

    # a power spectrum without logarithm spans six decades
    config = QuantizeConfig(input_bits=16, table_bits=8)
    return _of_others(folder, work, "speakers", opened, "2:32", real.spectrum, config, centre=False)


def _need(folder: Path, model: str) -> None:
    missing = real.missing(folder)
    if model in missing:
        raise MissingData(missing[model])


def _of_others(
    folder: Path,
    work: Path,
    task: str,
    opened: Callable[[], Network],
    pattern: str,
    feature: Callable[[real.Clip], NDArray[np.float64]],
    config: QuantizeConfig,
    centre: bool,
) -> Work:
    """A model that others trained: as 'bench accuracy' pruned and fine-tuned it where that has run, else pruned at once."""
    kept = _finetuned(work.parent / "accuracy", task, pattern)

    def made() -> Work:
        if kept is None:
            calibration = real.clips(folder, real.TRAIN)
            x = np.stack([feature(clip) for clip in calibration[:: len(calibration) // CALIBRATION]])
            network = opened()
            scaling = normalize.balance(network, x, centre=centre)
            network = magnitude.one_shot(normalize.fold(network, scaling), pattern)
            x, tests = scaling(x), scaling(np.stack([feature(clip) for clip in _digits(folder)]))
            how = f"pruned to {pattern} at once by magnitude: its shape counts, not its accuracy"
            full = config
        else:
            from sparsegate_app.bench import accuracy

            bench = accuracy.Bench(task, 0, folder, work.parent / "accuracy")
            network = Network.load(kept)
            train, test = bench.task.train.x, bench.task.test.x
            x = train[:: max(1, len(train) // CALIBRATION)]
            tests = test[0 : 300 : 300 // CLIPS]  # the official test recordings come first
            how = f"pruned to {pattern} and fine-tuned by 'bench accuracy' (task {task}, seed 0)"
            full = replace(config, rounding="compensated", bias_correction=True)
        program = quantize.quantize(_head_at_the_end(network), x, config=full)
        lengths = np.full(len(tests), tests.shape[1])
        about = f"trained by others, {how}; dense head on the last step"
        return Work(program, program.quantize(tests), lengths, about, f"{len(tests)} FSDD test recordings")

    source = "at once" if kept is None else hashlib.sha256(kept.read_bytes()).hexdigest()
    return _kept(work, task, f"{source} {pattern} {CALIBRATION} {config}", made)


def _head_at_the_end(network: Network) -> Network:
    """The network with its head on the last step alone."""
    heads = [layer.w_h is None for layer in network.layers]
    return network.with_layers(
        [replace(layer, when="last") if head else layer for layer, head in zip(network.layers, heads, strict=True)]
    )


def _finetuned(networks: Path, task: str, pattern: str) -> Path | None:
    """The file of a network that 'bench accuracy' has fine-tuned; None where it has not run."""
    path = networks / f"{task}-0" / f"pattern={pattern.replace(':', '_')}.safetensors"
    return path if path.exists() else None


def _digits(folder: Path) -> list[real.Clip]:
    """One test recording of each digit, of speakers in turn."""
    tests = real.clips(folder, real.TEST)
    speakers = sorted({clip.speaker for clip in tests})
    chosen = []
    for digit in range(CLIPS):
        mine = [clip for clip in tests if clip.digit == digit and clip.speaker == speakers[digit % len(speakers)]]
        chosen.append(mine[0])
    return chosen


def random_lstm(
    name: str,
    inputs: int,
    units: int,
    pattern: NM,
    outputs: int = 0,
    pattern_p: NM = DENSE,
    head: int = 0,
    config: QuantizeConfig = LARGE,
) -> Callable:
    """A maker of an LSTM with random weights in the pattern, on filterbank frames of spoken digits.

    ``outputs``: of a projection. ``head``: classes of a dense head on the last step.
    """

    def make(folder: Path, work: Path) -> Work:
        shapes = [Shape("lstm", units, pattern, pattern, outputs=outputs, pattern_p=pattern_p)]
        shapes += [Shape("linear", head, when="last")] * bool(head)
        spoken = real.fsdd_folder(folder).is_dir() and importlib.util.find_spec("librosa") is not None

        def made() -> Work:
            if spoken:
                frames = [filterbank(clip, inputs) for clip in _digits(folder)]
                about = f"FSDD: {len(frames)} test recordings, {inputs // 3} log-mel bands with first and second differences"
            else:
                rng = np.random.default_rng(SEED)
                frames = [rng.normal(size=(FRAMES, inputs)) for _ in range(CLIPS)]
                about = "random: there is no FSDD, or librosa is not installed"
            lengths = np.array([len(each) for each in frames])
            x = np.zeros((len(frames), lengths.max(), inputs))
            for row, each in zip(x, frames, strict=True):
                row[: len(each)] = each
            # inputs of unit deviation and weights of deviation 1 / sqrt(kept weights of a row): gates are in their steep part
            program = quantize.quantize(synthetic.network(inputs, shapes, seed=SEED), x, lengths, config)
            return Work(program, program.quantize(x), lengths, RANDOM, about)

        listed = shapes if head else shapes[0]
        kept = _kept(work, name, f"{listed} {SEED} {spoken} {config}", made)
        return replace(kept, network=RANDOM)  # whatever an earlier version called it

    return make


def filterbank(clip: real.Clip, inputs: int) -> NDArray[np.float64]:
    """Log-mel bands and their first and second differences, standardised over the recording: (T, inputs), zero-padded.

    Windows of 25 ms every 10 ms at the recording's own 8 kHz, as speech recognisers take them.
    """
    samples, rate = features.read_wave(clip.path)
    bands = inputs // 3
    power = features.librosa().feature.melspectrogram(
        y=samples, sr=rate, n_fft=512, win_length=rate // 40, hop_length=rate // 100, n_mels=bands
    )
    static = np.log(np.maximum(power.T, FLOOR))
    first = np.gradient(static, axis=0)
    frames = np.concatenate([static, first, np.gradient(first, axis=0)], axis=1)
    frames = (frames - frames.mean(axis=0)) / np.maximum(frames.std(axis=0), 1e-3)
    return np.pad(frames, ((0, 0), (0, inputs - frames.shape[1])))


def peer(folder: Path, work: Path) -> Work:
    """The cell that elastic-ai.creator ships, at its widths: dense, 16-bit weights and activations."""
    config = QuantizeConfig(activation_bits=16, weight_bits=16)

    def made() -> Work:
        data = datasets.japanese_vowels()
        network = synthetic.network(data.inputs, [Shape("lstm", 32)], seed=SEED)
        program = quantize.quantize(network, data.x_train, data.length_train, config)
        about = f"{CLIPS} test utterances of JapaneseVowels"
        return Work(program, *_utterances(data, program), "random dense weights of 16 bits", about)

    return _kept(work, "peer", f"{SEED} {config}", made)


ESE = Published(
    "ESE (FPGA'17)",
    "LSTM 153→1024 with projection 512, XCKU060, 1024 PEs, 200 MHz: 82.7 µs a step, 282 GOPS sparse, 2,520 GOPS dense-equivalent;"
    " occupancy 69 % (282 of the 409.6 GOPS that 1024 PEs at 200 MHz have)",
    "the paper's abstract; occupancy is our arithmetic on it",
)
SPARTUS = Published(
    "Spartus (TNNLS'22)",
    "LSTM 123→1024, 512 MACs, Zynq-7100, 200 MHz: 1 µs a step, 9,400 GOPS dense-equivalent",
    "the paper's abstract",
)
EDGEDRNN = Published(
    "EdgeDRNN (JETCAS'20)",
    "delta GRU, 8 PEs, MiniZed, weights in DRAM: 20.2 GOPS dense-equivalent; occupancy 68 % on its shipped bench",
    "the paper's abstract; occupancy executed by us under Verilator",
)
ELASTIC = Published(
    "elastic-ai.creator 0.68",
    "LSTM cell 12→32, 16 bits: 2,891 cycles a step with 4 multipliers in the loop; synth_ecp5: 1,489 LUT4, 539 CCU2C, 644 FF,"
    " 23 MULT18X18D, 8 DP16KD",
    "executed by us, patched to elaborate",
)
ECITON = Published("Eciton (FPL'21)", "LSTM on an iCE40 UP5K, 8 bits, hard sigmoid: 17 mW", "the paper's abstract")

WIDE = HardwareConfig(rows=32, groups=3)
VECTORS = replace(WIDE, outputs=8, deep=True)
"""Hands its results on as vectors, as the published accelerators of this size do."""

LEAN = replace(WIDE, lanes=4, banks=1, deep=True)
"""With a lane for each cluster a step of ``ese`` takes 192 cycles less and 10,600 LUTs more, and no less time: the device is then
so full that it closes at 98.5 MHz instead of 119.5. With a second bank of accumulators, too, it does not fit.
"""

TINY = HardwareConfig(rows=4, multiplier=16, banks=1)
"""Of an iCE40: its multipliers take 16 bits, and a second bank of accumulators would take four more of its block RAMs."""

NARROW = HardwareConfig(rows=8, banks=1, deep=True)
"""A second bank of accumulators would take 48 of a GW2A-18's 46 block RAMs for ``keywords``."""

STRETCH = tuple(
    replace(VECTORS, rows=64, lanes=lanes, outputs=outputs) for lanes, outputs in ((16, 8), (8, 1), (4, 1), (1, 1))
)
"""192 PEs, with the lanes of ``VECTORS`` and with as many as the device might have room for."""

WORKLOADS: dict[str, Workload] = {
    each.name: each
    for each in (
        Workload(
            "vowels",
            "trained LSTM 12→64 at 1:8 with a head of 9 classes",
            "iCE40UP5K",
            TINY,
            vowels,
            (ECITON,),
            packed=(
                replace(TINY, lanes=1, deep=True),
                replace(TINY, rows=8),
                replace(TINY, rows=16, lanes=2),
            ),
        ),
        Workload(
            "vowels-hx8k",
            "trained LSTM 12→64 at 1:8 with a head of 9 classes, multipliers in logic",
            "iCE40HX8K",
            TINY,
            vowels,
            (ECITON,),
            packed=(
                replace(TINY, lanes=1, deep=True),
                replace(TINY, rows=8, lanes=1),
            ),
        ),
        Workload(
            "sprams",
            "LSTM 40→240 at 1:8 with a head of 10 classes, weights in the four SPRAMs, loaded by the host",
            "iCE40UP5K",
            replace(TINY, loaded=True),
            random_lstm("sprams", 40, 240, NM(1, 8), head=10, config=replace(SMALL, weight_bits=8)),
            (ECITON,),
            seeds=3,  # nearly full: some find no placement
        ),
        Workload(
            "keywords",
            "trained 3 × LSTM-64 at 1:8 with a head of 35 classes",
            "LFE5U-25F",
            HardwareConfig(rows=16, deep=True),
            keywords,
            (EDGEDRNN,),
            mhz=130,
            packed=(
                HardwareConfig(rows=8),
                HardwareConfig(rows=16, groups=2, lanes=2, deep=True),
                HardwareConfig(rows=32, banks=1, lanes=8),
            ),
        ),
        Workload(
            "keywords-gw2a",
            "trained 3 × LSTM-64 at 1:8 with a head of 35 classes",
            "GW2A-18",
            NARROW,
            keywords,
            (EDGEDRNN,),
            mhz=100,
            packed=(
                replace(NARROW, rows=4),
                replace(NARROW, lanes=1, deep=False),
                replace(NARROW, rows=16),
            ),
        ),
        Workload(
            "encoder",
            "trained 3 × LSTM-256 speaker encoder at 2:32 with a head of 256",
            "LFE5U-85F",
            HardwareConfig(rows=32, banks=1, block_banks=1, deep=True),
            encoder,
            (EDGEDRNN, SPARTUS),
            mhz=130,
            seeds=2,
            packed=(
                HardwareConfig(rows=16, banks=1, deep=True),
                HardwareConfig(rows=32, banks=1, deep=True),
                HardwareConfig(rows=32, groups=2, banks=1, deep=True),
                HardwareConfig(rows=32, groups=2, deep=True),
                HardwareConfig(rows=32, groups=3, banks=1, block_banks=1, deep=True),
            ),
        ),
        Workload(
            "ese",
            "LSTM 153→1024 with projection 512, gates 1:16, projection 1:8",
            "LFE5U-85F",
            LEAN,
            random_lstm("ese", 153, 1024, NM(1, 16), 512, NM(1, 8)),
            (ESE, EDGEDRNN),
            (153, 1024),
            mhz=100,
            packed=(replace(LEAN, lanes=8, outputs=8),),
        ),
        Workload(
            "spartus",
            "LSTM 123→1024 at 1:16",
            "LFE5U-85F",
            VECTORS,
            random_lstm("spartus", 123, 1024, NM(1, 16)),
            (SPARTUS, EDGEDRNN),
            mhz=100,
            stretch=STRETCH,
            packed=(
                HardwareConfig(rows=16, deep=True),
                replace(VECTORS, lanes=4, outputs=1),
                STRETCH[2],
                STRETCH[3],
            ),
        ),
        Workload(
            "peer-4",
            "LSTM 12→32, dense, 16 bits, on 4 multipliers",
            "LFE5U-25F",
            HardwareConfig(rows=4),
            peer,
            (ELASTIC,),
            seeds=3,
            cell=True,
        ),
        Workload(
            "peer-8",
            "LSTM 12→32, dense, 16 bits, on 8 multipliers",
            "LFE5U-25F",
            HardwareConfig(rows=8, deep=True),
            peer,
            (ELASTIC,),
            mhz=130,
            seeds=3,
            cell=True,
        ),
    )
}
"""By name, in the order of the table."""


def chosen(names: list[str]) -> list[Workload]:
    """Workloads by name, "peer" being both of its sizes; all where none is named."""
    found: dict[str, Workload] = {}
    for name in names or list(WORKLOADS):
        named = [name] if name in WORKLOADS else [key for key in WORKLOADS if key.partition("-")[0] == name]
        mine = {key: WORKLOADS[key] for key in named}
        if not mine:
            raise SparseGateError(f"there is no workload {name!r}; the workloads are {', '.join(WORKLOADS)}")
        found |= mine
    return list(found.values())
