"""The report: its verdicts follow the numbers, it stands alone, and text from outside never becomes markup."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sadm_ray.evaluate import prediction_plots
from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.evaluate.example_frames import Picture
from sadm_ray.evaluate.score_tables import summarise
from sadm_ray.report.cards import Card
from sadm_ray.report.html_page import (
    SYNTHETIC_NOTE,
    ComparisonSection,
    Report,
    SweepSection,
    render_report,
    write_report,
)
from sadm_ray.report.table_cells import plain_rows
from sadm_ray.report.viewer import build_viewer
from tests.report.made import make_run

EVIL = '<script>alert("x")</script>'
PNG = b"\x89PNG made up"


def evaluation(gain: float, subject: str = "anna") -> Evaluation:
    """Two subjects and two frames; the sample is `gain` dB above copy-last."""
    common = {"task": "missing", "time": 0.0, "psnr_changed": 15.0, "ssim": 0.5, "nrmse": 0.1, "error": ""}
    metrics = pd.DataFrame(
        [
            {**common, "subject": who, "frame": frame, "method": method, "psnr": 20 + gain * (method == "sample")}
            for who in (subject, "ben")
            for frame in (1, 2)
            for method in ("copy-last", "sample")
        ]
    )
    picture = Picture(subject, "missing", 1, f"{subject}, missing, frame 1", PNG)
    return Evaluation(metrics, summarise(metrics), (picture,), (f"{subject}: could not be read",))


def report(found: Evaluation, **parts: object) -> Report:
    return Report(title="A run", created="2025-01-01", evaluation=found, **parts)  # type: ignore[arg-type]


class Resources(HTMLParser):
    """Collects what a page would load, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.unlabelled: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.loaded += [values[name] or "" for name in ("src", "srcset", "data") if name in values]
        self.linked += [values["href"] or ""] if "href" in values else []
        if tag == "img" and not values.get("alt"):
            self.unlabelled.append(str(values))


@pytest.fixture(scope="module")
def full_page() -> str:
    trials = pd.DataFrame([{"gain": 25.0 - number, "sampler": f"{EVIL}{number}"} for number in range(23)])
    return render_report(
        report(
            evaluation(1.0, subject=EVIL),
            summary=[EVIL],
            curves={f"loss {EVIL}": PNG},
            sweep=SweepSection(trials, subjects=[EVIL], pareto_png=PNG, importance_png=PNG),
            problems=[EVIL],
            settings_yaml=f"uri: http://user:secret@host/path\nname: {EVIL}",
            versions={"ray": EVIL},
            comparisons=[
                ComparisonSection(EVIL, EVIL, pd.DataFrame({"model": [EVIL, "flow"], "PSNR": ["24.1 ± 0.2", "−"]}))
            ],
            cards=[Card("Model", {EVIL: "3"}, [EVIL])],
            links={"table": "evaluation/table.csv"},
        )
    )


def test_nothing_is_loaded_from_anywhere(full_page: str) -> None:
    page = Resources(full_page)
    assert page.loaded
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)
    assert page.linked == ["evaluation/table.csv"]
    assert not re.search(r"url\(|@import", full_page)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_names_from_outside_stay_text(full_page: str) -> None:
    assert EVIL not in full_page
    assert full_page.count("&lt;script&gt;") >= 12


def test_passwords_in_addresses_are_hidden(full_page: str) -> None:
    assert "secret" not in full_page
    assert "@host/path" in full_page


def test_the_page_is_accessible(full_page: str) -> None:
    page = Resources(full_page)
    assert not page.unlabelled
    assert page.tags.count("h1") == 1
    assert "main" in page.tags
    assert 'name="viewport"' in full_page
    assert "prefers-color-scheme: dark" in full_page
    assert "@media print" in full_page
    assert SYNTHETIC_NOTE in full_page


@pytest.mark.parametrize(
    ("gain", "headline", "sentence", "outcome"),
    [
        (1.25, "clearly beats copy-last on 1 of 1 task.", "beats copy-last by +1.25 dB on 2 subjects", "beats"),
        (-1.25, "clearly beats copy-last on 0 of 1 task.", "does not beat copy-last (−1.25 dB on 2 subjects)", "loses"),
        (0.0, "clearly beats copy-last on 0 of 1 task.", "equals copy-last (0.00 dB on 2 subjects)", "unclear"),
    ],
)
def test_the_verdict_follows_the_data(gain: float, headline: str, sentence: str, outcome: str) -> None:
    page = render_report(report(evaluation(gain)))
    assert f"One sample {headline}" in page
    assert sentence in page
    assert f'<strong class="{outcome}">' in page


def test_a_run_without_scores_still_has_a_report() -> None:
    failed = evaluation(0.0).metrics.assign(error="ValueError: broken", psnr=math.nan)
    page = render_report(report(Evaluation(failed, summarise(failed), (), ("anna: broken",))))
    assert "Nothing was predicted that could be compared" in page
    assert "anna: broken" in page


def test_subjects_that_the_model_has_seen_are_listed_apart_and_nothing_is_concluded_from_them() -> None:
    judged, seen = evaluation(-1.25), replace(evaluation(9.0, subject="taught"), split="train", pictures=())
    page = render_report(report(replace(judged, others=(seen,))))
    apart = page[page.index("Subjects listed apart") :]
    assert "Training subjects: the model was trained on them" in apart
    assert "+9.00" in apart
    assert page.count("+9.00") == 1
    assert "One sample clearly beats copy-last on 0 of 1 task." in page
    nobody = Evaluation(judged.metrics.head(0), summarise(judged.metrics.head(0)), (), (), others=(seen,))
    alone = render_report(report(nobody))
    assert "Nothing was predicted that could be compared with copy-last." in alone
    assert "Subjects listed apart" in alone


def test_writing_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    for gain in (1.0, -1.0):
        write_report(path, report(evaluation(gain)))
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert "does not beat" in path.read_text(encoding="utf-8")


def test_every_picture_is_a_png() -> None:
    rng = np.random.default_rng(0)
    truth, copied = rng.uniform(size=(2, 4, 8, 8))
    drawn = [
        prediction_plots.draw_prediction(truth, copied, rng.uniform(size=(3, 4, 8, 8)), copied_slot=0),
        prediction_plots.draw_prediction(truth, copied, rng.uniform(size=(5, 4, 8, 8)), 0, copied),
        prediction_plots.draw_prediction(truth, copied, np.empty((0, 4, 8, 8)), 0, copied),  # the estimate alone
        prediction_plots.draw_prediction(
            truth, truth, truth[None]
        ),  # nothing changes, and a single sample has no spread
        prediction_plots.draw_gains(evaluation(1.0).metrics),
        prediction_plots.draw_psnr_by_frame(evaluation(1.0).metrics),
        prediction_plots.draw_curves(
            {"loss": [(1, 2.0), (2, math.nan), (3, 1.0)]}, "loss", baseline=("copy-last", 1.5), log=True
        ),
    ]
    assert all(png is not None and png.startswith(b"\x89PNG") for png in drawn)


def test_the_best_trials_of_a_sweep_are_listed_and_the_others_counted(full_page: str) -> None:
    assert "19</td>" in full_page
    assert "20</td>" not in full_page
    assert "And 3 more in sweeps/trials.csv" in full_page
    assert "1 validation subjects" in full_page


def test_models_are_compared_near_the_top(full_page: str) -> None:
    assert full_page.index("Comparison of models") < full_page.index("All methods")
    assert '<td class="word">flow</td><td>−</td>' in full_page


def test_words_stand_to_the_left_and_numbers_to_the_right() -> None:
    rows = plain_rows(pd.DataFrame({"the_task": ["a"], "gain": [-1.234], "text": ["24.1 ± 0.2"], "none": [math.nan]}))
    assert rows[0] == [("the task", "word"), ("gain", ""), ("text", ""), ("none", "")]
    assert rows[1] == [("a", "word"), ("−1.23", ""), ("24.1 ± 0.2", ""), ("–", "")]


def test_a_viewer_brings_its_scripts_and_nothing_else_may_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    viewer = build_viewer(run.study, run.predictions, run.evaluation.metrics)
    page = render_report(report(run.evaluation, viewer=viewer))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    allowed = html.unescape(policy[1])
    assert "default-src 'none'" in allowed
    assert "connect-src" not in allowed
    assert not re.search(r"script-src[^;]*unsafe", allowed)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in allowed
    assert 'href="#view=missing.median"' in page


@pytest.mark.parametrize("methods", [7, 12])
def test_every_method_has_its_line_by_frame(methods: int) -> None:
    """More of them than there are colours."""
    names = ["copy-last", "copy-first", "extrapolation", "mean change", "interpolation", "sample"]
    names += [f"mean of {number}" for number in range(2, methods - 4)]
    common = {"subject": "anna", "task": "missing", "psnr": 20.0, "error": ""}
    metrics = pd.DataFrame([{**common, "frame": frame, "method": name} for frame in (1, 2) for name in names])
    png = prediction_plots.draw_psnr_by_frame(metrics)
    assert png is not None
