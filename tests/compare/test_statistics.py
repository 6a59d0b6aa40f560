"""Intervals and tests on data with known results."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from sadm_ray.compare.comparison_job import scores_of, with_structures
from sadm_ray.compare.comparison_tables import ABLATION, BASELINES, NAMES, ONE_SAMPLE, make_table
from sadm_ray.compare.statistics import SCORES, holm, interval, method_statistics, paired_p
from sadm_ray.model.registry import KINDS

OURS = NAMES["sadm"] + ONE_SAMPLE


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        low, high = interval(random.normal(3.0, 1.0, size=30), 0.9)
        inside += low <= 3.0 <= high
    assert 0.82 <= inside / 200 <= 0.96
    assert interval(np.array([1.0, 2.0, 4.0]), 0.95) == interval(np.array([1.0, 2.0, 4.0]), 0.95)
    assert np.isnan(interval(np.array([1.0, np.nan]), 0.95)).all()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, float("nan"), 0.9]) == pytest.approx([1.0, float("nan"), 1.0], nan_ok=True)


def test_p_of_no_difference_is_one() -> None:
    assert paired_p(np.zeros(5)) == 1.0
    assert np.isnan(paired_p(np.array([1.0])))
    assert paired_p(np.arange(1.0, 9.0)) == pytest.approx(float(wilcoxon(np.arange(1.0, 9.0)).pvalue))


def metrics(kind: str, seed: int, gain: float, copy_last: float = 20.0) -> pd.DataFrame:
    """Twelve subjects, two frames; `gain` dB above copy-last."""
    rows = []
    for subject in range(12):
        for frame in (6, 7):
            found = {"copy-last": copy_last + subject, "sample": copy_last + subject + gain, "mean of 4": 30.0}
            for method, psnr in found.items():
                if method == "mean of 4" and not KINDS[kind].is_random:
                    continue
                scores = dict.fromkeys(SCORES, 0.5) | {"psnr": psnr + frame - 6.5}
                rows.append({"task": "a", "subject": f"s{subject}", "frame": frame, "method": method, **scores})
    return pd.DataFrame(rows).assign(error="", kind=kind, seed=seed)


def found() -> pd.DataFrame:
    parts = [metrics("sadm", 0, 2.0), metrics("sadm", 1, 3.0), metrics("gan", 0, 1.0), metrics("gan", 1, 1.0),
             metrics("ddm", 0, 2.5), metrics("ddm", 1, 2.5), metrics("regression", 0, 2.4)]  # fmt: skip
    return method_statistics(scores_of(pd.concat(parts)), OURS, 0.95)


def test_seeds_are_averaged_within_subjects_and_naive_baselines_count_once() -> None:
    table = found().set_index("method")
    assert table.loc[OURS, "psnr"] == pytest.approx(20.0 + 5.5 + 2.5)
    assert table.loc[OURS, "seeds"] == 2
    assert table.loc[OURS, "seed_sd"] == pytest.approx(np.std([2.0, 3.0], ddof=1))
    assert table.loc["copy-last", "seeds"] == 1
    assert table.loc["copy-last", "subjects"] == 12
    assert table.loc["copy-last", "delta_psnr"] == pytest.approx(-2.5)
    assert table.loc["GAN", "delta_psnr"] == pytest.approx(-1.5)  # without samples: its name has no ", one sample"
    assert table.loc["GAN", "p"] < 0.01
    assert table.loc["DDM, one sample", "p"] == pytest.approx(1.0)  # equal to ours on every subject
    assert np.isnan(table.loc[OURS, "p"])


def test_a_broken_prediction_is_left_out() -> None:
    broken = metrics("gan", 0, 1.0)
    broken.loc[broken["subject"] == "s3", "error"] = "damaged"
    scores = scores_of(pd.concat([metrics("sadm", 0, 2.0), broken]))
    table = method_statistics(scores, OURS, 0.95).set_index("method")
    assert table.loc["GAN", "subjects"] == 11
    assert table.loc["GAN", "delta_psnr"] == pytest.approx(-1.0)  # on the subjects that both have


def test_the_tables_have_each_their_methods_and_ours_last() -> None:
    table = found()
    comparison, ablation = make_table(table, BASELINES, 0.95), make_table(table, ABLATION, 0.95)
    shown = list(comparison.rows["method"])
    assert shown[0] == "copy-last"
    assert shown[-2:] == [OURS, "SADM (ours), mean of 4"]
    assert not any("without" in method for method in shown)
    assert set(ablation.rows["method"]) == {OURS, "SADM (ours), mean of 4", "without the diffusion"}
    assert "26.50 [" in comparison.markdown
    assert comparison.markdown.count("\n| ") == len(shown) + 2
    assert list(pd.read_csv(io.StringIO(comparison.csv)).columns) == list(comparison.rows.columns)
    assert r"\toprule" in comparison.latex
    assert "−" not in comparison.latex
    assert "Δ" not in comparison.latex


def test_methods_are_ranked_by_psnr_and_by_crps() -> None:
    """CRPS may order otherwise: an honest sample has less PSNR than a mean that has no spread."""
    table = found()
    rows = make_table(table, BASELINES, 0.95).rows
    best = table.loc[table["psnr"].idxmax(), "method"]
    ranks = dict(zip(rows["method"], rows["rank PSNR, CRPS"], strict=True))
    assert ranks[best].startswith("1, ")
    table["crps_changed"] = np.where(table["method"] == "copy-last", 0.01, 0.02 + 0.001 * np.arange(len(table)))
    ranks = dict(zip(rows["method"], make_table(table, BASELINES, 0.95).rows["rank PSNR, CRPS"], strict=True))
    assert ranks["copy-last"].endswith(", 1")
    table["crps_changed"] = np.nan
    assert all(each.endswith(", –") for each in make_table(table, BASELINES, 0.95).rows["rank PSNR, CRPS"])


def test_latex_escapes_what_would_break_it() -> None:
    latex = make_table(found(), BASELINES, 0.95).latex
    assert "95 \\%" in latex
    assert "< " not in latex.replace("$<$", "")


def test_tables_have_scores_of_structures_where_there_are_label_maps() -> None:
    ours = metrics("sadm", 0, 2.0).drop(columns=["dice", "volume_error", "kind", "seed"])
    key = {"task": "a", "frame": 6, "method": "sample"}
    structures = pd.DataFrame(
        {**key, "subject": "s0", "structure": name, "dice": dice, "true_voxels": 100.0, "predicted_voxels": size}
        for name, dice, size in (("cavity", 0.9, 90.0), ("wall", 0.7, 130.0))
    )
    lacking = structures.assign(subject="s1", true_voxels=0.0)  # what the truth lacks has no volume to be off from
    both = with_structures(
        SimpleNamespace(metrics=ours, structures=pd.concat([structures, lacking]))  # type: ignore[arg-type]
    )
    assert len(both) == len(ours)
    known = both.dropna(subset="dice")
    assert known[["subject", "frame", "method"]].to_numpy().tolist() == [["s0", 6, "sample"]]
    assert (known["dice"].iloc[0], known["volume_error"].iloc[0]) == pytest.approx((0.8, 0.2))
    table = method_statistics(scores_of(both.assign(kind="sadm", seed=0)), OURS, 0.95)
    shown = make_table(table, BASELINES, 0.95)
    assert shown.rows.set_index("method").loc[OURS, ["Dice", "volume error"]].tolist() == ["0.800", "0.200"]
    assert shown.rows.set_index("method").loc["copy-last", "Dice"] == "–"
    assert "Dice and error of volumes" in shown.note
    assert shown.latex.count("toprule") == 1
    without = with_structures(SimpleNamespace(metrics=ours, structures=lacking[:0]))  # type: ignore[arg-type]
    table = method_statistics(scores_of(without.assign(kind="sadm", seed=0)), OURS, 0.95)
    assert "Dice" not in make_table(table, BASELINES, 0.95).rows
