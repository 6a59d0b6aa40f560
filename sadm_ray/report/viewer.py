"""The page's viewer: the volumes that it holds, within a budget, and the data of its script about them."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError
from sadm_ray.evaluate.score_tables import KEYS
from sadm_ray.report.representative_subjects import Representative, representatives
from sadm_ray.report.viewer_volumes import SHOWN, SPREAD, TRUTH, Encoded, Volumes, encode, read_volumes

BUDGET = 12 * 2**20
"""Bytes of volumes in a page, base64 as they are there."""

SCRIPTS = ("vendor/niivue.umd.js", "viewer.js")
_PLACES = ("only", "median", "worst", "best")  # in the order in which they get room
_ERRORS = (DataError, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class View:
    """What can be chosen in the viewer: one subject in one task, its volumes, and each frame's PSNR by method (dB)."""

    representative: Representative
    volumes: Volumes
    encoded: Encoded
    psnr: Mapping[int, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """The view's entry in the data of the script."""
        _, d, h, w = self.volumes.quantities[TRUTH].shape
        return {
            "name": self.representative.name,
            "samples": self.volumes.samples,
            "shape": [w, h, d],
            "spacing": self.volumes.spacing,
            "frames": [
                {"frame": frame, "time": time, "psnr": self.psnr.get(frame, {})}
                for frame, time in zip(self.volumes.frames, self.volumes.times, strict=True)
            ],
            "shown": [name for name in SHOWN if name in self.volumes.quantities],
            "spread": SPREAD in self.volumes.quantities,
            "differenceTop": self.encoded.difference_top,
            "spreadTop": self.encoded.spread_top,
        }


@dataclass(frozen=True)
class Viewer:
    """The views, in the order of tasks, and a line for each subject that is left out."""

    views: Sequence[View]
    time_unit: str
    left_out: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Bytes of the volumes in the page."""
        return sum(view.encoded.size for view in self.views)

    @cached_property
    def scripts(self) -> list[str]:
        """NiiVue, and our own script after it."""
        folder = importlib.resources.files("sadm_ray.report")
        return [folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS]

    @property
    def hashes(self) -> list[str]:
        """The scripts' hashes for the content security policy: no other script in the page may run."""
        digests = [hashlib.sha256(script.encode()).digest() for script in self.scripts]
        return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]

    @property
    def views_json(self) -> str:
        """The data of the script, as JSON that cannot end a script element."""
        content = {"views": [view.to_json() for view in self.views], "timeUnit": self.time_unit}
        return json.dumps(content, allow_nan=False).replace("<", "\\u003c")

    @property
    def notes(self) -> list[str]:
        """Sentences for the page: how exact the volumes are, and what is left out."""
        lines = [
            "For this page the volumes were rounded to 8 bits: intensities to 1/255 of the range, differences and "
            "spreads to 1/127 and 1/255 of their largest value in the view. The metrics are those of the unrounded "
            "volumes. Voxels are those of the model’s grid, drawn as they are, without smoothing; the colours of "
            "differences and spread end at their 99.5th percentile; all that is shown as generated shares one scale."
        ]
        halvings = max((view.volumes.halvings for view in self.views), default=0)
        if halvings:
            lines.append(
                f"To keep the page small, {2**halvings} voxels were averaged to one along every long axis: "
                "these volumes are coarser than the generated ones, and their differences look smaller."
            )
        return [*lines, *self.left_out]


def build_viewer(study: Study, predictions: Path | str, metrics: pd.DataFrame, budget: int = BUDGET) -> Viewer | None:
    """Choose the best, the median and the worst subject of each task and encode their volumes; None without subjects.

    Where not all have room, the median of each task goes first, then the worst, then the best; where even the medians
    have none, all volumes are made coarser until they do. What cannot be read is left out, with a line in `left_out`.

    Args:
        predictions: the generation's folder of Parquet files, one a subject, or its URL.
        metrics: of the evaluation.
        budget: the most bytes of all volumes in the page, base64.
    """
    chosen = representatives(metrics)
    queue = sorted(chosen, key=lambda each: _PLACES.index(each.place))
    first = {each.task: each.name for each in reversed(queue)}.values()
    queue.sort(key=lambda each: each.name not in first)
    psnr = _psnr_by_frame(metrics)
    halvings, is_tight = 0, True
    while is_tight:
        kept: dict[str, View] = {}
        left_out: list[str] = []
        is_tight = False
        for each in queue:
            try:
                volumes = _halved(read_volumes(study, predictions, each.subject, each.task), halvings)
                encoded = encode(volumes)
            except _ERRORS as error:
                left_out.append(f"{each.subject}, {each.task}, cannot be shown: {error}")
                continue
            if sum(view.encoded.size for view in kept.values()) + encoded.size <= budget:
                kept[each.name] = View(each, volumes, encoded, psnr.get((each.subject, each.task), {}))
                continue
            left_out.append(f"{each.subject}, {each.task} ({each.place}), is left out: its volumes have no room here.")
            is_tight = each.name in first and volumes.halved() is not volumes
            if is_tight:
                halvings += 1
                break
    views = [kept[each.name] for each in chosen if each.name in kept]
    return Viewer(views, study.time_unit, left_out) if chosen else None


def _halved(volumes: Volumes, times: int) -> Volumes:
    for _ in range(times):
        volumes = volumes.halved()
    return volumes


def _psnr_by_frame(metrics: pd.DataFrame) -> dict[tuple[str, str], dict[int, dict[str, float]]]:
    """(subject, task) to frame to method to PSNR, dB."""
    scored = metrics[(metrics["error"] == "") & metrics["psnr"].notna()]
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for subject, task, frame, method, psnr in scored[[*KEYS, "method", "psnr"]].itertuples(index=False):
        found.setdefault((subject, task), {}).setdefault(int(frame), {})[method] = round(float(psnr), 2)
    return found
