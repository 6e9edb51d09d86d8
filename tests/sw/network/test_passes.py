"""Passes: how layers are cut into streams, what is refused, and turning sequences round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegate.errors import SparseGateError
from sparsegate.network import Network, synthetic
from sparsegate.network.passes import Pass, flipped, passes, single, vectors
from sparsegate.network.synthetic import Shape
from sparsegate.numerics.fixed import QFormat
from sparsegate.quantize import quantize


@dataclass
class Link:
    """A layer, as far as passes see it."""

    name: str
    sources: tuple[str, ...] = ()
    reverse: bool = False
    when: str = "step"


def cut(*links: Link, output: tuple[str, ...] = ()) -> tuple[Pass, ...]:
    found = vectors([link.name for link in links], [link.sources for link in links], output)
    return passes(links, found[:-1], found[-1])


def test_a_chain_is_one_pass():
    assert cut(Link("a"), Link("b"), Link("c", when="last")) == (Pass(range(3), (0,), False, "step"),)


def test_a_reversed_chain_is_one_pass_and_its_head_another():
    found = cut(Link("a", reverse=True), Link("b", reverse=True), Link("c", when="final"))
    assert found == (Pass(range(2), (0,), True, "step"), Pass(range(2, 3), (2,), False, "final"))


def test_two_directions_stacked():
    found = cut(
        Link("a"),
        Link("b", ("input",), reverse=True),
        Link("c", ("a", "b")),
        Link("d", ("a", "b"), reverse=True),
        Link("e", ("c", "d")),
    )
    assert found == (
        Pass(range(1), (0,), False, "step"),
        Pass(range(1, 2), (0,), True, "step"),
        Pass(range(2, 3), (1, 2), False, "step"),
        Pass(range(3, 4), (1, 2), True, "step"),
        Pass(range(4, 5), (3, 4), False, "step"),
    )


def test_a_vector_with_two_takers_ends_its_pass():
    """Layer b follows a, but c needs all that a gave."""
    found = cut(Link("a"), Link("b"), Link("c", ("a",)), output=("b", "c"))
    assert found == (
        Pass(range(1), (0,), False, "step"),
        Pass(range(1, 2), (1,), False, "step"),
        Pass(range(2, 3), (1,), False, "step"),
    )


def test_the_output_takes_too():
    assert len(cut(Link("a"), Link("b"), output=("a", "b"))) == 2


def test_names_become_numbers():
    assert vectors(["a", "b"], [(), ("input", "a")], ()) == [(0,), (0, 1), (2,)]
    assert vectors(["a", "b"], [(), ("input",)], ("a", "b")) == [(0,), (0,), (1, 2)]


REFUSED = [
    ([Link("a", ("z",))], (), "layer 'a' takes 'z', which is no earlier layer; there are input"),
    ([Link("a"), Link("b", ("b",))], (), "layer 'b' takes 'b', which is no earlier layer; there are input, a"),
    ([Link("a", ("b",)), Link("b")], (), "layer 'a' takes 'b'"),
    ([Link("a")], ("z",), "the output takes 'z', which is no earlier layer; there are input, a"),
    ([Link("a"), Link("b", ("input",))], (), "nothing takes the output of layer 'a'"),
    ([Link("a"), Link("b")], ("a",), "nothing takes the output of layer 'b'"),
    ([Link("a", when="last"), Link("b")], (), "layer 'a' runs on the last step only, so 'b' after it cannot run on every one"),
    ([Link("a"), Link("b", when="final")], ("a", "b"), "an output made of several layers is given at every step"),
    ([Link("a")], ("input", "a"), "the network's output cannot be its input"),
]  # fmt: skip


@pytest.mark.parametrize(("links", "output", "message"), REFUSED)
def test_refused_graphs(links, output, message):
    with pytest.raises(SparseGateError, match=message):
        cut(*links, output=output)


def both() -> Network:
    return synthetic.network(3, [Shape("lstm", 4, both=True), Shape("gru", 2, both=True), Shape("linear", 2)], seed=1)


def test_a_network_is_cut_when_it_is_made():
    network = both()
    assert [(part.layers, part.sources, part.reverse) for part in network.passes] == [
        (range(1), (0,), False),
        (range(1, 2), (0,), True),
        (range(2, 3), (1, 2), False),
        (range(3, 4), (1, 2), True),
        (range(4, 5), (3, 4), False),
    ]
    assert not network.streams


def test_networks_and_programs_that_cannot_run_are_refused():
    network = both()
    with pytest.raises(SparseGateError, match="layer 'gru1' takes 'nobody', which is no earlier layer"):
        network.with_layers([*network.layers[:2], replace(network.layers[2], sources=("nobody",)), *network.layers[3:]])
    with pytest.raises(SparseGateError, match="layer 'linear2' takes 4 inputs, but 'gru1' gives? 2"):
        network.with_layers([*network.layers[:4], replace(network.layers[4], sources=("gru1",))])
    with pytest.raises(SparseGateError, match="has no direction of time"):
        network.with_layers([*network.layers[:4], replace(network.layers[4], reverse=True)])
    program = quantize(network, np.random.default_rng(0).normal(size=(2, 4, 3)))
    with pytest.raises(SparseGateError, match=r"layer 'gru1' takes vectors \(1, 3\), expected earlier ones, 0 to 2"):
        replace(program, layers=(*program.layers[:2], replace(program.layers[2], sources=(1, 3)), *program.layers[3:]))
    with pytest.raises(SparseGateError, match="takes vectors of different formats, expected one"):
        other = replace(program.layers[0], formats={**program.layers[0].formats, "h": QFormat(8, 6)})
        wider = {**other.formats, "acc": QFormat(40, other.formats["acc"].frac + 1)}
        replace(program, layers=(replace(other, formats=wider), *program.layers[1:]))
    with pytest.raises(SparseGateError, match="the output is made of vectors"):
        replace(program, output=(0,))
    with pytest.raises(SparseGateError, match="nothing takes the output of layer 'linear2'"):
        replace(program, output=(3, 4))


@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 99), st.data())
def test_turning_round(count, steps, seed, data):
    lengths = np.array(data.draw(st.lists(st.integers(1, steps), min_size=count, max_size=count)))
    values = np.random.default_rng(seed).integers(0, 99, (count, steps, 2))
    turned = flipped(values, lengths)
    for n, length in enumerate(lengths):
        assert (turned[n, :length] == values[n, :length][::-1]).all()
        assert (turned[n, length:] == values[n, length:]).all()
    assert (flipped(turned, lengths) == values).all()


@given(st.integers(1, 5), st.integers(1, 7), st.booleans(), st.sampled_from(["last", "final"]), st.data())
def test_the_single_step(count, steps, reverse, when, data):
    """Of a reversed layer the final value is that of the first step; the last step's is the first that it computed."""
    lengths = np.array(data.draw(st.lists(st.integers(1, steps), min_size=count, max_size=count)))
    values = np.random.default_rng(0).integers(0, 99, (count, steps, 2))
    found = single(values, lengths, reverse, when)
    assert found.shape == (count, 1, 2)
    for n, length in enumerate(lengths):
        at = 0 if reverse and when == "final" else length - 1
        assert (found[n, 0] == values[n, at]).all()
