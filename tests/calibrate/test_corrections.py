import numpy as np
import pytest
import torch

from sadm_ray.calibrate.corrections import (
    FACTORS,
    SHARES,
    change_sums,
    held_out_targets,
    spread_sums,
    with_change,
    with_spread,
)
from sadm_ray.model.prior_samples import SCALES
from sadm_ray.model.recalibration import KINDS, Correction, Recalibration
from tests.model.test_registry import SHAPE, shaken


def row(seed: int = 0) -> dict[str, object]:
    """A subject of four scans, as `parse_row` returns it."""
    generator = np.random.default_rng(seed)
    return {
        "subject": f"s{seed}",
        "frames": generator.random((4, 1, *SHAPE), dtype=np.float32),
        "present": np.ones(4, dtype=bool),
        "times": np.array([0.0, 0.3, 0.6, 1.0]),
        "contrasts": [""],
        "has_channel": np.ones((4, 1), dtype=bool),
        "covariates": {},
        "visit_covariates": [{}] * 4,
    }


def test_the_change_is_scaled_to_the_least_error_of_all_subjects_and_only_where_something_was_seen() -> None:
    seen = {"single": [0.3, 0.5, 1.0], "beyond": [0.4, 0.5, 2.0], "between": [0.0, 0.0, 0.0]}
    sums = [seen, seen]
    fitted = with_change(sums)
    assert fitted.single.change == pytest.approx(0.6, rel=0.02)
    assert fitted.beyond.change == pytest.approx(0.8, rel=0.02)
    assert fitted.beyond.motion == fitted.beyond.intensity == 1.0
    assert fitted.between == Correction()
    assert fitted.subjects == 2


def test_a_few_who_hardly_change_do_not_decide_the_change_of_all() -> None:
    """Of nine the estimate is right; of the tenth, who hardly changes, it says ten times too much."""
    many = {kind: [1.0, 1.0, 1.0] for kind in KINDS}
    still = {kind: [10.0, 100.0, 1.0] for kind in KINDS}
    assert with_change([{kind: [0.9, 0.9, 1.0] for kind in KINDS}] * 9 + [still]).beyond.change > 0.9
    assert with_change([many, many]).beyond.change == 1.0


def test_the_change_of_a_model_that_says_too_little_is_enlarged() -> None:
    model = shaken("sadm")
    before = [change_sums(model, row(seed), 6, 0) for seed in range(3)]
    assert {kind: sum(each[kind][2] for each in before) for kind in KINDS}.keys() == set(KINDS)
    assert sum(each[kind][2] for each in before for kind in KINDS) == 18
    assert [change_sums(model, row(seed), 6, 0) for seed in range(3)] == before, "always the same targets"


@pytest.mark.parametrize(
    ("motion", "noise", "intensity"), [(FACTORS[2], 0.0, 0.5), (1.0, SHARES[9], 2.0), (FACTORS[-2], SHARES[4], 1.0)]
)
def test_the_corrections_are_those_that_make_samples_vary_as_the_estimate_errs(
    motion: float, noise: float, intensity: float
) -> None:
    """Intensities vary voxel by voxel, so that block means hardly do; motions are wide; added noise is in between."""
    intensities = np.array([0.4 / scale**2 for scale in SCALES])
    added = np.array([0.3 / scale for scale in SCALES])
    motions = [np.full(len(SCALES), 0.2 * factor**2) for factor in FACTORS]
    errors = motions[FACTORS.index(motion)] + noise**2 * added + intensity**2 * intensities
    sums = {kind: np.array([intensities, added, *motions, *[errors] * len(FACTORS)]).tolist() for kind in KINDS}
    fitted = with_spread(Recalibration(beyond=Correction(change=0.7)), [sums, sums])
    found = fitted.beyond
    assert (found.change, found.motion, found.noise, found.intensity) == pytest.approx((0.7, motion, noise, intensity))


def test_files_of_earlier_versions_correct_a_single_scan_as_several() -> None:
    earlier = {"beyond": {"change": 0.9, "motion": 1.3}, "between": {"change": 1.1}}
    assert Recalibration.model_validate(earlier).single == Correction(change=0.9, motion=1.3)
    assert Recalibration.model_validate(earlier).between.noise == 0.0


def test_nothing_seen_changes_nothing() -> None:
    nothing = {kind: np.zeros((2 + 2 * len(FACTORS), len(SCALES))).tolist() for kind in KINDS}
    assert with_spread(Recalibration(), [nothing]) == Recalibration()


def test_only_the_changed_region_counts() -> None:
    """Whatever the estimate errs where the subject keeps still changes nothing of what samples should vary by."""
    model, still = shaken("sadm"), row(0)
    frames = still["frames"]
    assert isinstance(frames, np.ndarray)
    frames[:, :, :, : SHAPE[1] // 2] = 0.5 + 0.01 * frames[:, :, :, : SHAPE[1] // 2]
    for target in held_out_targets(model, still, 3, 0):
        assert not target.changed[..., : SHAPE[1] // 2, :].any()
        assert target.changed[..., SHAPE[1] // 2 :, :].any()
        elsewhere = target.changed.logical_not().float()
        for scale in (1, 2):
            assert target.mean_product(target.changed, target.changed, scale) == pytest.approx(1.0, abs=0.05)
            assert target.mean_product(elsewhere, elsewhere, scale) == pytest.approx(0.0, abs=0.05)


def test_samples_that_are_twice_as_wide_are_halved() -> None:
    model = shaken("sadm")
    rows = [row(seed) for seed in range(2)]
    spread = model.spread
    assert spread is not None
    intensities = []
    for wider in (0.0, 1.0):
        with torch.no_grad():
            for level in spread.noise.levels[-1:]:
                level[-1].bias += wider * np.log(2.0) / 4.0
        sums = [spread_sums(model, each, 4, 0) for each in rows]
        intensities.append(np.sum([each["beyond"][0] for each in sums], axis=0))
    np.testing.assert_allclose(intensities[1] / intensities[0], 4.0, rtol=1e-3)
