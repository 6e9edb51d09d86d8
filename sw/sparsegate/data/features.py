"""Features of speech, as the published models take them: a wave file to frames of MFCC or of a mel spectrogram.

The arithmetic is librosa's, an optional dependency (``pip install 'sparsegate[real]'``) that is imported only when features are
computed.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError

RATE = 16_000
"""Samples a second that every feature here is computed at."""
RESAMPLER = "polyphase"
"""librosa's name of the resampling filter: SciPy's polyphase one, with its default Kaiser window."""


def librosa() -> Any:
    """The module librosa, or a sentence about how to get it."""
    try:
        import librosa as module
    except ImportError as error:
        raise SparseGateError(
            f"speech features need librosa, which cannot be imported ({error}); run pip install 'sparsegate[real]'"
        ) from None
    return module


def read_wave(path: str | Path) -> tuple[NDArray[np.float64], int]:
    """Samples in -1..1 of a 16-bit mono wave file, and its rate in samples a second."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise SparseGateError(
            f"cannot read the wave file {path}: {getattr(error, 'strerror', None) or error or 'it ends too early'}"
        ) from error
    if (channels, width) != (1, 2):
        raise SparseGateError(f"{path} has {channels} channels of {8 * width} bits, expected 1 channel of 16 bits")
    samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
    if not samples.size or rate < 1:
        raise SparseGateError(f"{path} holds {samples.size} samples at {rate} a second, expected at least one")
    return samples / 32768.0, rate


def speech(path: str | Path) -> NDArray[np.float32]:
    """A wave file's samples at :data:`RATE`."""
    exact, rate = read_wave(path)
    samples = exact.astype(np.float32)
    if rate == RATE:
        return samples
    return librosa().resample(samples, orig_sr=rate, target_sr=RATE, res_type=RESAMPLER)


def centred(samples: NDArray, length: int) -> NDArray:
    """The middle ``length`` samples; a shorter signal gets zeros on both sides, the odd one at the end."""
    spare = length - len(samples)
    if spare <= 0:
        start = -spare // 2
        return samples[start : start + length]
    return np.pad(samples, (spare // 2, spare - spare // 2))


def tiled(samples: NDArray, length: int) -> NDArray:
    """A signal of ``length`` samples: the given one, again and again."""
    if not len(samples):
        raise SparseGateError("a signal without samples cannot be repeated")
    return np.tile(samples, -(-length // len(samples)))[:length]


def at_least(samples: NDArray, level: float) -> NDArray:
    """A signal whose mean power is at least ``level`` dB of full scale: a quieter one is amplified, but silence stays."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    wanted = 10 ** (level / 10)
    return samples if power >= wanted or power == 0 else samples * np.float32(np.sqrt(wanted / power))


def mfcc(
    samples: NDArray, coefficients: int, window: int = 2048, hop: int = 512, bands: int = 128
) -> NDArray[np.float64]:
    """Mel-frequency cepstral coefficients, (T, coefficients): librosa's, with its defaults for frames and mel bands."""
    shape = {"n_fft": window, "hop_length": hop, "n_mels": bands}
    return librosa().feature.mfcc(y=samples, sr=RATE, n_mfcc=coefficients, **shape).T.astype(np.float64)


def mel(samples: NDArray, bands: int, window: int, hop: int) -> NDArray[np.float64]:
    """Power mel spectrogram, no logarithm: windows of ``window`` samples every ``hop``. (1 + samples // hop, bands)"""
    made = librosa().feature.melspectrogram(y=samples, sr=RATE, n_fft=window, hop_length=hop, n_mels=bands)
    return made.T.astype(np.float64)
