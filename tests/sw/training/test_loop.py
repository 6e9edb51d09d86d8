"""The order in which a training takes its sequences; the loop itself is tested in test_train.py."""

from __future__ import annotations

import numpy as np

from sparsegate.training.loop import _epoch


def test_a_buckets_batches_hold_sequences_of_like_lengths():
    """Of 60 sequences in ten batches, five at a time are cut from a random part that is sorted by length."""
    lengths = np.random.default_rng(0).permutation(60) + 1
    batches = _epoch(np.random.default_rng(1), lengths, 10, 5)
    assert sorted(np.concatenate(batches).tolist()) == list(range(60))
    drawn = np.random.default_rng(1).permutation(60)
    for part in (drawn[:30], drawn[30:]):
        mine = sorted((batch for batch in batches if set(batch) <= set(part)), key=lambda batch: lengths[batch[0]])
        assert [lengths[batch].tolist() for batch in mine] == np.sort(lengths[part]).reshape(5, 6).tolist()
