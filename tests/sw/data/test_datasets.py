"""Data sets: the shipped one, a user's own, and everything that can be wrong with it."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from sparsegate.data import datasets
from sparsegate.errors import SparseGateError


def arrays(count: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(count, 6, 3)), "length": rng.integers(1, 7, count), "y": np.arange(count) % 3}


def test_japanese_vowels(vowels):
    assert (vowels.name, vowels.inputs, vowels.classes) == ("vowels", 12, 9)
    assert vowels.x_train.shape == (270, 26, 12)
    assert vowels.x_test.shape == (370, 29, 12)
    assert (vowels.length_train.min(), vowels.length_test.max()) == (7, 29)
    assert np.bincount(vowels.y_train).tolist() == [30] * 9
    assert np.bincount(vowels.y_test).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert not vowels.x_test[np.arange(29)[None, :] >= vowels.length_test[:, None]].any()


def test_japanese_vowels_is_standardised(vowels):
    mean, deviation = vowels.spread()
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(deviation, 1)
    # the first cepstrum of the first utterance as the file has it, from the file's own statistics
    assert vowels.x_train[0, 0, 0] > vowels.x_train[0, 19, 0]


def test_npz_with_test_part(tmp_path):
    own, test = arrays(), arrays(4, seed=1)
    np.savez(tmp_path / "own.npz", **own, **{f"{key}_test": value for key, value in test.items()})
    made = datasets.load(tmp_path / "own.npz")
    assert (made.name, made.inputs, made.classes) == ("own", 3, 3)
    assert (made.y_train == own["y"]).all()
    assert (made.y_test == test["y"]).all()
    assert (made.x_train[0, : own["length"][0]] == own["x"][0, : own["length"][0]]).all()
    assert not made.x_train[0, own["length"][0] :].any()


def test_npz_split_is_a_fifth_and_always_the_same(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(50))
    first, second = datasets.load(tmp_path / "own.npz"), datasets.load(str(tmp_path / "own.npz"))
    assert (len(first.y_train), len(first.y_test)) == (40, 10)
    assert (first.x_test == second.x_test).all()
    together = np.concatenate([first.x_train, first.x_test])[:, 0, 0]
    assert sorted(together) == sorted(arrays(50)["x"][:, 0, 0])


def test_noisy_training_sequences():
    own = arrays(40)
    fields = own["x"], own["length"], own["y"]
    made = datasets.Dataset("d", *fields, *fields, 3)
    x, lengths, y = made.noisy(2, 0.5)
    assert (lengths == own["length"].repeat(2)).all()
    assert (y == own["y"].repeat(2)).all()
    real = np.arange(6)[None, :] < lengths[:, None]
    assert not x[~real].any()
    added = (x - made.x_train.repeat(2, axis=0))[real] / made.spread()[1]
    assert abs(added.mean()) < 0.1
    assert abs(added.std() - 0.5) < 0.05
    assert (x[0] != x[1]).any()  # each time of its own
    assert (made.noisy(2, 0.5)[0] == x).all()


def test_standardise_leaves_a_constant_input_alone():
    made = arrays()
    made["x"][..., 1] = 5.0
    made["length"][:] = 6
    fields = [made["x"], made["length"], made["y"]]
    spread = datasets.Dataset("d", *fields, *fields, 3).standardise().spread()
    np.testing.assert_allclose(spread[0], 0, atol=1e-12)
    np.testing.assert_allclose(spread[1], [1, 0, 1], atol=1e-12)


GOOD = arrays()
BAD = [
    ({"y": None}, "has no array 'y'; it holds length, x"),
    ({"x": GOOD["x"][:, :, 0]}, r"x_train has shape \(8, 6\), expected \(N, T, I\)"),
    ({"x": np.where(GOOD["x"] > 1, np.nan, GOOD["x"]), "length": np.full(10, 6)}, "NaN or infinite values"),
    ({"length": np.full(10, 7)}, r"lengths lie in 7\.\.7, expected 1\.\.6"),
    ({"length": np.full(10, 0)}, r"lengths lie in 0\.\.0"),
    ({"length": np.full(10, 2.0)}, "float64"),
    ({"y": GOOD["y"][:5]}, r"have shapes \(10, 6, 3\), \(10,\) and \(5,\), expected the same N"),
    ({"y": GOOD["y"] - 1}, "y starts at -1, expected classes 0, 1, 2"),
    ({"y": GOOD["y"] * 1.0}, "y holds values of type float64, expected integers"),
    ({"y": GOOD["y"] * 0}, "1 classes found, expected at least 2"),
    ({"x_test": GOOD["x"]}, "has x_test; a test part needs all of x_test, length_test and y_test"),
    ({"x_test": GOOD["x"][..., :2], "length_test": GOOD["length"], "y_test": GOOD["y"]}, "test sequences 2"),
    ({"x": GOOD["x"][:1], "length": GOOD["length"][:1], "y": GOOD["y"][:1]}, "holds 1 sequences, expected at least 2"),
    ({"x": np.zeros((10, 0, 3))}, "x_train has shape"),
    ({"x": GOOD["x"] + 1j}, "x holds values of type complex128, expected real numbers"),
    ({"x": GOOD["x"].astype(str)}, "x holds values of type <U32, expected real numbers"),
    ({"x": GOOD["x"] * 1e300}, r"x reaches a magnitude of .*e\+300, expected at most 1e\+09"),
    ({"y": GOOD["y"] + 10**12}, r"labels reach 1000000000002, expected classes 0, 1, 2, \.\.\. below 65536"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_npz(tmp_path, change, message):
    np.savez(tmp_path / "own.npz", **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(SparseGateError, match=message):
        datasets.load(tmp_path / "own.npz")


def test_bad_files(tmp_path):
    with pytest.raises(SparseGateError, match=r"a data set is 'vowels' or the path of an \.npz file, not 'mnist'"):
        datasets.load("mnist")
    with pytest.raises(SparseGateError, match=r"cannot read .*none\.npz: No such file"):
        datasets.load(tmp_path / "none.npz")
    path = tmp_path / "own.npz"
    path.write_bytes(b"")
    with pytest.raises(SparseGateError, match=r"is not a readable \.npz archive"):
        datasets.load(path)
    np.savez(path, **GOOD)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SparseGateError, match=r"is not a readable \.npz archive"):
        datasets.load(path)
    with path.open("wb") as file:
        np.save(file, GOOD["x"])
    with pytest.raises(SparseGateError, match="it holds a single array"):
        datasets.load(path)


def test_no_pickle_is_read(tmp_path):
    np.savez(tmp_path / "own.npz", **(GOOD | {"y": np.array([{}] * 10, object)}))
    with pytest.raises(SparseGateError, match="holds pickled Python objects, expected arrays of numbers"):
        datasets.load(tmp_path / "own.npz")


TS = "@problemName a\n@data\n1,2,3:4,5,6:left\n\n7,8:9,10:right\n"


def write_ts(folder, train: str = TS, test: str = TS):
    (folder / "JapaneseVowels_TRAIN.ts").write_text(train)
    (folder / "JapaneseVowels_TEST.ts").write_text(test)
    return folder


def test_ts_format(tmp_path):
    made = datasets.japanese_vowels(write_ts(tmp_path))
    assert made.length_train.tolist() == [3, 2]
    assert made.y_train.tolist() == [0, 1]
    frames = np.array([[1, 4], [2, 5], [3, 6], [7, 9], [8, 10]])
    np.testing.assert_allclose(made.x_train[0], ((frames - frames.mean(0)) / frames.std(0))[:3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2:3,4:a\n", "has no @data line"),
        ("@data\n", "holds no sequences"),
        ("@data\n1,2:3,x:a\n", r"line 2: could not convert string to float"),
        ("@data\n1,2:3:a\n", r"line 2: "),
        ("@data\n1,2:3,4:a\n1,2:a\n", r"line 3: 1 channels, expected 2"),
    ],
)
def test_bad_ts(tmp_path, text, message):
    with pytest.raises(SparseGateError, match=message):
        datasets.japanese_vowels(write_ts(tmp_path, text))


def test_missing_ts(tmp_path):
    with pytest.raises(SparseGateError, match=r"cannot read .*JapaneseVowels_TRAIN\.ts"):
        datasets.japanese_vowels(tmp_path)


def test_missing_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        SparseGateError,
        match=r"comes with the package sktime, which is not installed; run 'pip install .sparsegate\[data\].'",
    ):
        datasets.load("vowels")


def damaged(path, change) -> None:
    """Write a good archive, changed in its central directory (PK 1 2: flags at 8, method at 10) or its data."""
    np.savez_compressed(path, **GOOD)
    data = bytearray(path.read_bytes())
    change(data, data.find(b"PK\x01\x02"))
    path.write_bytes(data)


DAMAGES = {
    "encrypted": lambda data, at: data.__setitem__(at + 8, data[at + 8] | 1),
    "unknown compression": lambda data, at: data.__setitem__(at + 10, 99),
    "zlib": lambda data, at: data.__setitem__(slice(100, 140), b"\xff" * 40),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_archives(tmp_path, change):
    damaged(tmp_path / "own.npz", change)
    with pytest.raises(SparseGateError, match=r"own\.npz is not a readable \.npz archive: "):
        datasets.load(tmp_path / "own.npz")


def test_members_that_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as file:
        for name in ("x", "length", "y"):
            file.writestr(name, b"abc")
    with pytest.raises(SparseGateError, match="x is not a numpy array; write the file with numpy.savez"):
        datasets.load(tmp_path / "own.npz")


def test_other_arrays_are_left_alone(tmp_path):
    np.savez(tmp_path / "own.npz", **GOOD, notes=np.array({"by": "me"}, object))
    assert datasets.load(tmp_path / "own.npz").classes == 3


def test_arrays_beyond_memory(tmp_path):
    header = str({"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**6, 1000)}).ljust(117) + "\n"
    np.savez(tmp_path / "own.npz", length=GOOD["length"], y=GOOD["y"])
    with zipfile.ZipFile(tmp_path / "own.npz", "a") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(SparseGateError, match=r"own\.npz does not fit this machine's memory"):
        datasets.load(tmp_path / "own.npz")
