"""The table, the verdicts and what is shown of them, on numbers worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from rich.console import Console

from sadm_ray.evaluate import score_tables


def metrics_of(*rows: tuple[str, int, str, float]) -> pd.DataFrame:
    """Metrics of one task from (subject, frame, method, psnr)."""
    blank = {"task": "task", "time": 0.0, "psnr_changed": 10.0, "ssim": 0.5, "nrmse": 0.1, "error": ""}
    return pd.DataFrame(
        [{**blank, "subject": who, "frame": frame, "method": method, "psnr": psnr} for who, frame, method, psnr in rows]
    )


TWO_SUBJECTS = metrics_of(
    ("a", 1, "copy-last", 20.0),
    ("a", 2, "copy-last", 30.0),
    ("b", 1, "copy-last", 40.0),
    ("a", 1, "sample", 22.0),
    ("a", 2, "sample", 32.0),
    ("b", 1, "sample", 41.0),
    ("a", 1, "interpolation", 21.0),
)


def test_frames_are_averaged_within_a_subject_first() -> None:
    table = score_tables.summarise(TWO_SUBJECTS).set_index("method")
    assert list(table.index) == ["copy-last", "interpolation", "sample"]
    assert table.loc["copy-last", "psnr"] == pytest.approx((25 + 40) / 2)
    assert table.loc["sample", "delta_psnr"] == pytest.approx((2 + 1) / 2)
    assert table.loc["sample", "delta_psnr_se"] == pytest.approx(0.5)
    assert table.loc["sample", ["subjects", "frames", "better"]].tolist() == [2, 3, 2]


def test_a_method_is_compared_on_its_own_frames_only() -> None:
    table = score_tables.summarise(TWO_SUBJECTS).set_index("method")
    assert table.loc["interpolation", "delta_psnr"] == pytest.approx(1.0)
    assert table.loc["interpolation", "frames"] == 1


def test_naive_baselines_come_in_their_order_before_the_model() -> None:
    methods = ["mean of 4", "sample", "interpolation", "mean change", "extrapolation", "copy-first", "copy-last"]
    table = score_tables.summarise(metrics_of(*(("a", 1, method, 20.0) for method in methods)))
    assert table["method"].tolist() == [*score_tables.NAIVE_BASELINES, "sample", "mean of 4"]


def test_means_of_the_other_tables_are_over_frames_then_subjects() -> None:
    frames = [("a", 1, 0.2), ("a", 2, 0.4), ("b", 1, 0.5)]
    blank = dict.fromkeys(score_tables.CALIBRATION_COLUMNS, 0.0) | {"task": "t", "samples": 4}
    calibration = pd.DataFrame(
        [{**blank, "subject": who, "frame": slot, "spread": value, "correlation": value} for who, slot, value in frames]
    )
    means = score_tables.summarise_calibration(calibration)
    assert list(means.columns) == ["task", "samples", *score_tables.CALIBRATION_COLUMNS[4:-1]]
    assert means["correlation"].tolist() == pytest.approx([(0.3 + 0.5) / 2])
    assert means["spread"].tolist() == pytest.approx([math.sqrt(((0.04 + 0.16) / 2 + 0.25) / 2)])

    some = [(who, method, 0.1 * (who == "b")) for who in "ab" for method in ("sample", "copy-last")]
    temporal = pd.DataFrame([(who, "t", method, 2, value, -value) for who, method, value in some])
    temporal.columns = score_tables.TEMPORAL_COLUMNS[:-1]
    means = score_tables.summarise_temporal(temporal)
    assert means["method"].tolist() == ["copy-last", "sample"]
    assert means["flicker"].tolist() == pytest.approx([-0.05, -0.05])


def test_empty_tables_have_empty_means() -> None:
    assert score_tables.summarise_temporal(pd.DataFrame(columns=score_tables.TEMPORAL_COLUMNS)).empty
    assert score_tables.summarise_calibration(pd.DataFrame(columns=score_tables.CALIBRATION_COLUMNS)).empty


def test_failed_rows_count_nowhere() -> None:
    failed = metrics_of(("c", 1, "", math.nan)).assign(error="ValueError: broken")
    both = pd.concat([TWO_SUBJECTS, failed], ignore_index=True)
    pd.testing.assert_frame_equal(score_tables.summarise(both), score_tables.summarise(TWO_SUBJECTS))
    assert score_tables.summarise(failed).empty


@pytest.mark.parametrize(
    ("gains", "outcome", "words"),
    [
        ((1.0, 1.2, 1.1), "beats", "beats copy-last by +1.10 dB on 3 subjects; better on 3 of 3"),
        ((-1.0, -1.2, -1.1), "loses", "does not beat copy-last (−1.10 dB on 3 subjects); better on 0 of 3"),
        ((1.0, -1.0, 0.3), "unclear", "beats copy-last by +0.10 dB on 3 subjects, within two standard errors"),
        ((0.0, 0.0), "unclear", "equals copy-last (0.00 dB on 2 subjects)"),
        ((-0.5,), "unclear", "does not beat copy-last (−0.50 dB on 1 subject)"),
    ],
)
def test_the_verdict_follows_the_numbers(gains: tuple[float, ...], outcome: str, words: str) -> None:
    rows = [(f"s{i}", 1, method, 20 + gain * (method == "sample")) for i, gain in enumerate(gains) for method in
            ("copy-last", "sample")]  # fmt: skip
    (verdict,) = score_tables.verdicts(score_tables.summarise(metrics_of(*rows)))
    assert verdict.outcome == outcome
    assert verdict.sentence.startswith(words)


def test_without_copy_last_there_is_no_verdict() -> None:
    (verdict,) = score_tables.verdicts(score_tables.summarise(metrics_of(("a", 1, "sample", 20.0))))
    assert verdict.sentence == "cannot be compared with copy-last"
    assert verdict.outcome == "unclear"


def test_by_frame_has_a_column_a_method() -> None:
    wide = score_tables.by_frame(TWO_SUBJECTS)
    assert list(wide.columns) == ["task", "frame", "copy-last", "interpolation", "sample"]
    assert wide["copy-last"].tolist() == [30.0, 30.0]
    assert math.isnan(wide["interpolation"][1])


def test_the_table_reads_the_same_in_the_terminal_and_in_markdown() -> None:
    table = score_tables.summarise(TWO_SUBJECTS)
    lines = score_tables.to_markdown(table).splitlines()
    assert len(lines) == 2 + 3
    assert lines[4].startswith("| task | sample | 2 | 34.00 | +1.50 |")
    console = Console(width=110)
    with console.capture() as capture:
        console.print(score_tables.render_table(table))
    assert "+1.50" in capture.get()
    assert "interpolation" in capture.get()
