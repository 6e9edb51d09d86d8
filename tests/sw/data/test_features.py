"""Speech features: files, lengths, levels; librosa's own numbers where it is installed."""

from __future__ import annotations

import importlib.util
import sys
import wave

import numpy as np
import pytest

from sparsegate.data import features
from sparsegate.errors import SparseGateError

needs_librosa = pytest.mark.skipif(
    importlib.util.find_spec("librosa") is None,
    reason="librosa is not installed; pip install 'sparsegate[real]' provides it",
)


def write(path, samples, rate=8000, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return path


def test_a_wave_file(tmp_path):
    samples, rate = features.read_wave(write(tmp_path / "a.wav", [0, 16384, -32768, 1]))
    assert rate == 8000
    assert samples.tolist() == [0, 0.5, -1, 2**-15]


def test_files_that_are_no_speech(tmp_path):
    for name, content in (("text.wav", b"no sound at all"), ("empty.wav", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SparseGateError, match=f"cannot read the wave file .*{name}: "):
            features.read_wave(tmp_path / name)
    with pytest.raises(SparseGateError, match="cannot read the wave file .*: No such file"):
        features.read_wave(tmp_path / "none.wav")
    with pytest.raises(SparseGateError, match="has 2 channels of 16 bits, expected 1 channel of 16 bits"):
        features.read_wave(write(tmp_path / "two.wav", [1, 2], channels=2))
    with pytest.raises(SparseGateError, match="holds 0 samples"):
        features.read_wave(write(tmp_path / "silent.wav", []))


def test_a_file_at_the_right_rate_needs_no_librosa(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    assert features.speech(write(tmp_path / "a.wav", [0, 16384], rate=16000)).tolist() == [0, 0.5]
    with pytest.raises(SparseGateError, match=r"speech features need librosa.*pip install 'sparsegate\[real\]'"):
        features.speech(write(tmp_path / "b.wav", [0, 16384]))


@pytest.mark.parametrize(
    ("length", "wanted"), [(3, [1, 2, 3]), (2, [1, 2]), (1, [2]), (4, [1, 2, 3, 0]), (6, [0, 1, 2, 3, 0, 0])]
)
def test_centred(length, wanted):
    assert features.centred(np.array([1, 2, 3]), length).tolist() == wanted


def test_tiled():
    assert features.tiled(np.array([1, 2, 3]), 7).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert features.tiled(np.array([1, 2, 3]), 2).tolist() == [1, 2]
    with pytest.raises(SparseGateError, match="without samples"):
        features.tiled(np.array([]), 3)


def test_quiet_signals_are_raised_to_a_level():
    wave_form = np.sin(np.arange(1000)).astype(np.float32)
    quiet = features.at_least(wave_form * np.float32(1e-3), -30)
    assert quiet.dtype == np.float32
    assert 10 * np.log10(np.mean(quiet**2)) == pytest.approx(-30, abs=1e-3)
    assert features.at_least(wave_form, -30) is wave_form
    assert not features.at_least(np.zeros(5, np.float32), -30).any()


@needs_librosa
@pytest.mark.filterwarnings("ignore")  # of libraries that librosa brings
def test_shapes_and_scale_of_what_librosa_computes(tmp_path):
    rng = np.random.default_rng(1)
    path = write(tmp_path / "a.wav", rng.normal(0, 3000, 4000))
    samples = features.speech(path)
    assert samples.shape == (8000,)
    assert features.mfcc(features.centred(samples, features.RATE), 12).shape == (32, 12)
    spectrum = features.mel(features.tiled(samples, 25600), bands=40, window=400, hop=160)
    assert spectrum.shape == (161, 40)
    louder = features.mel(features.tiled(2 * samples, 25600), bands=40, window=400, hop=160)
    np.testing.assert_allclose(louder, 4 * spectrum, rtol=1e-5)  # a power, without a logarithm
