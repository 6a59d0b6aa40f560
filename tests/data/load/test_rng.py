"""Random numbers depend on the seed, the step, the sample and the name alone."""

from __future__ import annotations

import pytest
import torch

from sadm_ray.data.load.rng import SampleRng


def test_a_subset_draws_the_same_numbers_as_the_whole() -> None:
    whole, subset = SampleRng(1, 2, range(8), 8), SampleRng(1, 2, range(8), 8).subset(slice(3, 6))
    assert subset.indices == (3, 4, 5)
    for draw in (lambda c: c.uniform("a", 4), lambda c: c.normal("b", (2, 3)), lambda c: c.stratified("t")):
        assert torch.equal(draw(whole)[3:6], draw(subset))


def test_draws_differ_by_seed_step_sample_and_name() -> None:
    draws = [
        tuple(row.tolist())
        for seed in range(3) for step in range(3) for name in ("a", "b")
        for row in SampleRng(seed, step, range(4), 4).uniform(name, 3)
    ]  # fmt: skip
    assert len(set(draws)) == 3 * 3 * 2 * 4
    again = SampleRng(2, 2, range(4), 4)
    assert torch.equal(again.uniform("b", 3), again.uniform("b", 3))


def test_a_longer_draw_begins_with_the_shorter() -> None:
    rng = SampleRng(0, 5, range(3), 3)
    assert torch.equal(rng.uniform("slots", 17)[:, :6], rng.uniform("slots", 6))


def test_stratified_numbers_fall_one_into_each_stratum() -> None:
    firsts = set()
    for step in range(20):
        stratified = SampleRng(0, step, range(8), 8).stratified("t")
        assert sorted((stratified * 8).floor().int().tolist()) == list(range(8))
        firsts.add(int(stratified[0] * 8))
    assert len(firsts) > 4


def test_uniform_and_normal_numbers_have_their_distributions() -> None:
    rng = SampleRng(0, 0, range(400), 400)
    uniform, normal = rng.uniform("u", 100), rng.normal("n", (100,))
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    assert abs(torch.corrcoef(normal).fill_diagonal_(0)).mean() < 0.1
