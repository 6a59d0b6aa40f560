"""Draw the README's picture from the demo's run: observed, generated, truth, spread and error of one phantom heart.

    make demo
    .venv/bin/python examples/draw_phantom_heart.py        # writes docs/pictures/phantom-heart.png

It is the median heart of the task `ed-to-es` by PSNR, of those that were not trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from sadm_ray.data.shards.prepared_study import read_study, read_subject
from sadm_ray.evaluate.metrics import psnr
from sadm_ray.report.representative_subjects import representatives
from sadm_ray.report.viewer_volumes import read_volumes

RUN, PICTURE = "runs/phantom", "docs/pictures/phantom-heart.png"
TASKS = {"ed-to-es": "frame 0", "three-to-es": "frames 0, 2, 4"}
"""The rows; of the observed frames the last is shown, with its PSNR as a prediction (copy-last)."""
LAST = {"ed-to-es": 0, "three-to-es": 4}
GROUND, LIGHT = "#0e1318", "#d5dde3"
TOP = 0.15
"""Where the colours of spread and error end, in units of the intensity range."""

Slice = Float[np.ndarray, "h w"]


def draw(run: Path, picture: Path) -> None:
    """Write the picture of the demo's run."""
    metrics = pd.read_csv(run / "evaluation" / "metrics.csv", dtype={"error": str}, keep_default_na=False, na_values="")
    found = representatives(metrics.fillna({"error": ""}))
    subject = next(each.subject for each in found if each.task == "ed-to-es" and each.place == "median")
    figure = Figure(figsize=(10.0, 4.6), facecolor=GROUND)
    axes = figure.subplots(len(TASKS), 5)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.04, hspace=0.16)
    drawn = (panel for task in TASKS for panel in panels(run, subject, task))
    for axis, (title, image, is_scan) in zip(axes.flat, drawn, strict=True):
        axis.set_title(title, color=LIGHT, fontsize=10, pad=5)
        axis.imshow(image, cmap="gray" if is_scan else "inferno", vmin=0.0, vmax=1.0 if is_scan else TOP)
        axis.axis("off")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)


def panels(run: Path, subject: str, task: str) -> Iterator[tuple[str, Slice, bool]]:
    """Title and slice of each panel of a row, and whether it shows a scan: the slice that changes most."""
    study = read_study(str(run / "shards"))
    volumes = read_volumes(study, run / "generated" / "predictions", subject, task)
    last = {name: frames[-1] for name, frames in volumes.quantities.items()}
    truth, mean, copied = last["truth"], last["mean"], last["copy-last"]
    z = int(np.abs(truth - copied).sum(axis=(1, 2)).argmax())
    observed = read_subject(study, subject)["frames"][LAST[task], 0]
    yield f"seen: {TASKS[task]} ({psnr(truth, copied):.1f} dB)", observed[z], True
    yield f"generated ({psnr(truth, mean):.1f} dB)", mean[z], True
    yield f"truth, frame {volumes.frames[-1]}", truth[z], True
    yield f"spread of {volumes.samples} samples", last["spread"][z], False
    yield "error of their mean", np.abs(mean - truth)[z], False


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    draw(Path(given.get(0, RUN)), Path(given.get(1, PICTURE)))
