"""The real tasks that compression is judged on: data, loss and measure of each.

JapaneseVowels comes with a PyPI package. The data of the others stay outside of the project, in the folder that
``real.data_folder`` tells; a task whose data are missing is skipped, with the reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsegate import artefact, golden, importers
from sparsegate.data import datasets, features
from sparsegate.errors import SparseGateError
from sparsegate.network import Network, normalize
from sparsegate.program import Program
from sparsegate_app.bench import real

RUL_CAP = 125
"""Remaining life beyond this many cycles counts as this many: a healthy engine says nothing about its end (Heimes 2008)."""
CHARACTERS_WINDOW = 128
ERRORS = ("rmse", "bits_per_character")
"""Figures of which a lower one is better; the others are shares."""
NOISE = 0.7
ENROL = range(10, 15)
"""Training recordings that enrol the speakers of the validation part, as many as ``real.TRAIN`` are for the test part."""
EVALUATED = 100
"""Sequences that run at once, which bounds memory."""


@dataclass(frozen=True, eq=False)
class Part:
    """Sequences (N, T, I), zero past their ends, their steps (N,), and what is to be told of each: (N,), (N, T) or (N, T, O)."""

    x: NDArray
    lengths: NDArray[np.int64]
    target: NDArray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray | slice) -> Part:
        return Part(self.x[rows], self.lengths[rows], self.target[rows])


@dataclass(frozen=True, eq=False)
class Task:
    """What a network is trained and judged on.

    ``validation`` is held out of training (of the vowels, which are too few for that, it is the training part with noise). ``kind``
    names the loss: a class on the "last" step, a class or a value at every "step", or "match"ing a ``teacher`` that others trained.
    """

    name: str
    data: str
    kind: str
    train: Part
    validation: Part
    test: Part
    measures: Callable[[NDArray[np.float64], Part], Mapping[str, float]]
    """From real outputs at every step (N, T, O) to the task's figures, the deciding one first."""
    unit: str
    outputs: int
    hidden: int = 64
    teacher: Network | None = None

    @property
    def higher(self) -> bool:
        """Whether a larger figure is the better one."""
        return self.unit == "share"

    def measure(self, model: Network | Program, part: Part | None = None) -> dict[str, float]:
        """Figures of a Network in float, or of a Program's golden model, on the test part."""
        part = self.test if part is None else part
        chunks = []
        for start in range(0, len(part), EVALUATED):
            some = part.take(slice(start, start + EVALUATED))
            if isinstance(model, Program):
                trace = golden.run(model, model.quantize(some.x), some.lengths)
                chunks.append(model.output_format.real(trace.outputs))
            else:
                chunks.append(model.evaluate(some.x, some.lengths).outputs)
        return {key: round(float(value), 6) for key, value in self.measures(np.concatenate(chunks), part).items()}

    def score(self, model: Network | Program, part: Part | None = None) -> float:
        """The deciding figure, larger is better."""
        value = next(iter(self.measure(model, part).values()))
        return value if self.higher else -value

    def loss(self, found: float, reference: float) -> float:
        """What is lost: points of a share, percent of any other figure; negative where something is won."""
        return lost(found, reference, self.higher)


def lost(found: float, reference: float, higher: bool) -> float:
    """As :meth:`Task.loss`, of figures of which a higher one is better, or a lower one."""
    return round(100 * (reference - found if higher else found / reference - 1), 3)


def _last(outputs: NDArray, part: Part) -> NDArray:
    return outputs[np.arange(len(part)), part.lengths - 1]


def _accuracy(outputs: NDArray, part: Part) -> dict[str, float]:
    return {"accuracy": np.mean(_last(outputs, part).argmax(axis=1) == part.target)}


def vowels(folder: Path, cache: Path) -> Task:
    about = "UCI Japanese Vowels: 270 training and 370 test utterances of 9 speakers, 12 cepstra, standardised"
    return of_dataset(datasets.japanese_vowels(), about)


def of_dataset(made: datasets.Dataset, about: str) -> Task:
    """A classifier of a data set that has no validation part."""
    train = Part(made.x_train, made.length_train, made.y_train)
    test = Part(made.x_test, made.length_test, made.y_test)
    # every training sequence counts, so none is held out; with noise they are as good as unseen
    noisy = train.take(np.repeat(np.arange(len(train)), 3))
    noise = np.random.default_rng(0).normal(0, NOISE, noisy.x.shape) * made.spread()[1]
    about += f"; validation: the training part three times, with noise of {NOISE} deviations"
    return Task(
        made.name, about, "last", train, replace(noisy, x=noisy.x + noise), test, _accuracy, "share", made.classes
    )


def digits(folder: Path, cache: Path, hidden: int = 64) -> Task:
    indices = {"train": range(10, 50), "validation": real.TRAIN, "test": real.TEST}
    frames = _cached(cache / "digits.npz", lambda: {name: _cepstra(folder, chosen) for name, chosen in indices.items()})
    seen = frames["train"]
    real_steps = np.arange(seen.x.shape[1])[None, :] < seen.lengths[:, None]
    mean, deviation = seen.x[real_steps].mean(axis=0), seen.x[real_steps].std(axis=0)

    def scaled(part: Part) -> Part:
        valid = np.arange(part.x.shape[1])[None, :, None] < part.lengths[:, None, None]
        return Part(np.where(valid, (part.x - mean) / deviation, 0.0), part.lengths, part.target)

    parts = {name: scaled(part) for name, part in frames.items()}
    about = (
        "Free Spoken Digit Dataset: 2,400 training, 300 validation (index 5 to 9) and the official 300 test recordings; 13 MFCC of"
        " 40 mel bands, 32 ms windows every 16 ms, standardised"
    )
    return Task(f"digits-{hidden}", about, "last", *_three(parts), _accuracy, "share", 10, hidden)


def _cepstra(folder: Path, indices: range) -> Part:
    clips = real.clips(folder, indices)
    return _padded(
        [features.mfcc(features.speech(clip.path), 13, window=512, hop=256, bands=40) for clip in clips],
        np.array([clip.digit for clip in clips]),
    )


def keywords(folder: Path, cache: Path) -> Task:
    """A model that others trained on Speech Commands; the recordings' digits are used by the measure alone."""
    indices = {"train": range(10, 50), "validation": real.TRAIN, "test": real.TEST}

    def made(chosen: range) -> Part:
        clips = real.clips(folder, chosen)
        return _padded([real.cepstra(clip) for clip in clips], np.array([clip.digit for clip in clips]))

    parts = _cached(cache / "keywords.npz", lambda: {name: made(chosen) for name, chosen in indices.items()})
    teacher = importers.load(
        real.checkpoint_of_commands(folder), layers=["lstm", "fc"], when="step", name="speech-commands"
    )
    teacher, parts = _balanced(teacher, parts, centre=True)
    names = folder / "speech_commands_lstm" / "config" / "classes_kaggle.names"
    classes = names.read_text(encoding="utf-8").split()

    def measures(outputs: NDArray, part: Part) -> dict[str, float]:
        return real.accuracies(_last(outputs, part), part.target, classes)

    about = (
        "trained 3-layer LSTM for 35 words (Speech Commands), judged on 300 FSDD test digits; distilled on 2,400 FSDD recordings"
        " without their labels; figures: share right among 35 classes, among ten"
    )
    return Task("keywords", about, "match", *_three(parts), measures, "share", len(classes), 64, teacher)


def speakers(folder: Path, cache: Path) -> Task:
    """A speaker encoder that others trained, and embeddings of its own that every result is compared with."""
    enrolment, tests = real.clips(folder, real.TRAIN), real.clips(folder, real.TEST)
    others = real.clips(folder, range(10, 50))
    names = sorted({clip.speaker for clip in tests})

    def made(clips: list[real.Clip]) -> Part:
        speaker = np.array([names.index(clip.speaker) for clip in clips])
        return _padded([real.spectrum(clip) for clip in clips], speaker)

    # tests and enrolment run together: identification needs both
    parts = _cached(
        cache / "encoder.npz",
        lambda: {"train": made(others), "validation": made(enrolment), "test": made(tests + enrolment)},
    )
    checkpoint = real.checkpoint_of_encoder()
    if checkpoint is None:
        raise SparseGateError("the package resemblyzer is not installed; run pip install --no-deps resemblyzer")
    teacher = importers.load(checkpoint, layers=real.LAYERS_OF_ENCODER, when="step", name="speaker-encoder")
    teacher, parts = _balanced(teacher, parts, centre=False)
    enrols = parts["train"].take(np.flatnonzero([clip.index in ENROL for clip in others]))
    parts["validation"] = _joined(parts["validation"], enrols)
    counts = {id(parts["validation"]): len(enrolment), id(parts["test"]): len(tests)}
    exact = {id(part): real.evaluated(teacher, part.x) for part in (parts["validation"], parts["test"])}

    def measures(outputs: NDArray, part: Part) -> dict[str, float]:
        found = _last(outputs, part)
        if id(part) not in counts:  # nobody is enrolled
            return {"cosine": float(np.median(real.cosines(found, real.evaluated(teacher, part.x))))}
        count = counts[id(part)]
        cosine = float(np.median(real.cosines(found, exact[id(part)])[:count]))
        own = [str(number) for number in part.target]
        right = real.identified(found[:count], found[count:], own[:count], own[count:])
        return {"identification": float(np.mean(right)), "cosine": cosine}

    about = (
        "trained 3-layer LSTM-256 speaker encoder (GE2E), judged on 300 FSDD test recordings of 6 speakers that 300 others enrol;"
        " distilled on 2,400 further FSDD recordings; validation: the 300 that enrol, as tests, enrolled by 300 of the 2,400;"
        " figures: share of speakers identified, median cosine to the float embedding"
    )
    return Task("speakers", about, "match", *_three(parts), measures, "share", 256, 256, teacher)


def engines(folder: Path, cache: Path) -> Task:
    train, test = (np.loadtxt(folder / "cmapss" / f"{name}_FD001.txt") for name in ("train", "test"))
    left = np.loadtxt(folder / "cmapss" / "RUL_FD001.txt")
    used = np.flatnonzero(train.std(axis=0) > 1e-6)
    used = used[used >= 5]  # not the engine's number, the cycle, or the three settings
    mean, deviation = train[:, used].mean(axis=0), train[:, used].std(axis=0)

    def made(rows: NDArray, after: NDArray) -> Part:
        groups = [rows[rows[:, 0] == unit] for unit in np.unique(rows[:, 0])]
        values = [(group[:, used] - mean) / deviation for group in groups]
        life = [
            np.minimum(last + np.arange(len(group))[::-1], RUL_CAP) for group, last in zip(groups, after, strict=True)
        ]
        part = _padded(values, np.zeros(len(groups)))
        target = np.zeros((*part.x.shape[:2], 1))
        for row, value in zip(target, life, strict=True):
            row[: len(value), 0] = value / RUL_CAP
        return Part(part.x, part.lengths, target)

    def measures(outputs: NDArray, part: Part) -> dict[str, float]:
        found = np.clip(_last(outputs, part)[:, 0], 0, 1)
        wanted = part.target[np.arange(len(part)), part.lengths - 1, 0]
        return {"rmse": RUL_CAP * float(np.sqrt(np.mean(np.square(found - wanted))))}

    held = np.arange(100) % 7 == 3
    life = made(train, np.zeros(100))
    # a training engine runs to its end; one that is held out is cut five times, as the test engines are
    whole, rng = life.take(held), np.random.default_rng(0)
    rows = np.repeat(np.arange(len(whole)), 5)
    cut = Part(whole.x[rows], rng.integers(30, whole.lengths[rows]), whole.target[rows])
    about = (
        f"NASA C-MAPSS FD001: {np.count_nonzero(~held)} training, {np.count_nonzero(held)} validation and 100 test engines,"
        f" {len(used)} sensors that vary, standardised; remaining life capped at {RUL_CAP} cycles in training and test; root mean"
        " squared error in cycles on each test engine's last cycle"
    )
    return Task("engines", about, "value", life.take(~held), cut, made(test, left), measures, "cycles", 1)


def characters(folder: Path, cache: Path) -> Task:
    text = (folder / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    symbols = sorted(set(text))
    numbers = np.array([symbols.index(symbol) for symbol in symbols])
    table = np.zeros(128, np.int64)
    table[[ord(symbol) for symbol in symbols]] = numbers
    coded = table[np.frombuffer(text.encode("ascii"), np.uint8)]
    first, second = int(0.9 * len(coded)), int(0.95 * len(coded))

    def windows(part: NDArray[np.int64], steps: int) -> Part:
        count = (len(part) - 1) // steps
        x = np.eye(len(symbols), dtype=np.float32)[part[: count * steps].reshape(count, steps)]
        return Part(x, np.full(count, steps), part[1 : count * steps + 1].reshape(count, steps))

    def measures(outputs: NDArray, part: Part) -> dict[str, float]:
        shifted = outputs - outputs.max(axis=2, keepdims=True)
        chosen = np.take_along_axis(shifted, part.target[:, :, None], axis=2)[:, :, 0]
        nats = np.log(np.exp(shifted).sum(axis=2)) - chosen
        return {"bits_per_character": float(nats.mean() / np.log(2))}

    about = (
        f"tiny-shakespeare: 1,115,394 characters, {len(symbols)} symbols, one-hot; the first 90 % train, in windows of"
        f" {CHARACTERS_WINDOW}, the next 5 % validate, the last 5 % test, in sequences of 1,000 from a zero state; bits a character"
    )
    train = windows(coded[:first], CHARACTERS_WINDOW)
    parts = train, windows(coded[first:second], 1000), windows(coded[second:], 1000)
    return Task("characters", about, "step", *parts, measures, "bits", len(symbols), 256)


TASKS: dict[str, Callable[[Path, Path], Task]] = {
    "vowels": vowels,
    "digits-64": digits,
    "digits-128": lambda folder, cache: digits(folder, cache, 128),
    "keywords": keywords,
    "speakers": speakers,
    "engines": engines,
    "characters": characters,
}
SPEECH = ("digits-64", "digits-128", "keywords", "speakers")


def missing(name: str, folder: Path) -> str | None:
    """Why a task cannot run here; None where it can."""
    reasons = real.missing(folder)
    if name in SPEECH and importlib.util.find_spec("librosa") is None:
        return "librosa is not installed; run pip install 'sparsegate[real]'"
    if name in ("digits-64", "digits-128") and not real.fsdd_folder(folder).is_dir():
        return (
            f"there is no FSDD in {real.fsdd_folder(folder)}; name the data's folder with --data-dir or {real.VARIABLE}"
        )
    if name == "keywords":
        return reasons.get("speech_commands")
    if name == "speakers":
        return reasons.get("speaker_encoder")
    for task, part in (("engines", "cmapss"), ("characters", "tinyshakespeare")):
        if name == task and not (folder / part).is_dir():
            return f"there is no {folder / part}; name the data's folder with --data-dir or {real.VARIABLE}"
    return None


def open_task(name: str, folder: Path, cache: Path) -> Task:
    """A task by name, or of a user's own ``.npz`` file of labelled sequences; features that take long are kept in ``cache``."""
    if name.endswith(".npz"):
        return of_dataset(datasets.npz(name), f"{Path(name).name}")
    if name not in TASKS:
        raise SparseGateError(
            f"there is no task {name!r}; the tasks are {', '.join(TASKS)}, or an .npz file of your own"
        )
    return TASKS[name](folder, cache)


def _three(parts: Mapping[str, Part]) -> tuple[Part, Part, Part]:
    return parts["train"], parts["validation"], parts["test"]


def _balanced(network: Network, parts: dict[str, Part], centre: bool) -> tuple[Network, dict[str, Part]]:
    """Input columns shifted and scaled, and undone in the weights that read them: the same function."""
    scaling = normalize.balance(network, parts["train"].x, parts["train"].lengths, centre=centre)
    scaled = {name: replace(part, x=scaling(part.x)) for name, part in parts.items()}
    return normalize.fold(network, scaling), scaled


def _joined(*parts: Part) -> Part:
    """One part of several whose sequences are equally long."""
    return Part(*(np.concatenate([getattr(part, key) for part in parts]) for key in ("x", "lengths", "target")))


def _padded(values: list[NDArray], target: NDArray) -> Part:
    lengths = np.array([len(value) for value in values])
    x = np.zeros((len(values), lengths.max(), values[0].shape[1]))
    for row, value in zip(x, values, strict=True):
        row[: len(value)] = value
    return Part(x, lengths, target)


def _cached(path: Path, make: Callable[[], dict[str, Part]]) -> dict[str, Part]:
    """Parts that are made once; the file is removed by hand where the features change."""
    if not path.exists():
        arrays = {
            f"{name}_{key}": getattr(part, key) for name, part in make().items() for key in ("x", "lengths", "target")
        }
        with artefact.writing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    found = np.load(path, allow_pickle=False)
    names = dict.fromkeys(key.rsplit("_", 1)[0] for key in found.files)
    return {name: Part(*(found[f"{name}_{key}"] for key in ("x", "lengths", "target"))) for name in names}
