"""Settings of the study: where it is and how it becomes shards."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sadm_ray.config.base import Fraction, Positive, Section, Shape, storable

warnings.filterwarnings("ignore", message='Field name "register"')  # of the metaclass, which nobody calls

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(location: str) -> bool:
    """Whether a location is a URL such as `s3://bucket/study`, rather than a path of this machine."""
    return _URL.match(location) is not None


def _location(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    return text if is_url(text) else os.path.expanduser(text)  # noqa: PTH111  (a URL would lose a slash as a path)


def _one_alone(value: Any) -> Any:
    """A list of one contrast is that contrast."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def contrasts_of(suffix: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the channels of a frame: of one contrast alone an empty one, which no file carries."""
    return ("",) if isinstance(suffix, str) else tuple(suffix)


def _refuse_twice(names: tuple[str, ...]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"the contrast {twice[0]!r} stands there twice; name each once")


Location = Annotated[str, BeforeValidator(_location), AfterValidator(storable)]
"""A folder or file: a path, or a URL that pyarrow or fsspec can open (s3://, gs://, …)."""


class PhantomSettings(Section):
    """What stands in for a study when `data.root` is not given: a beating ventricle in ACDC's layout (`kind` heart), or
    an ageing head in BIDS (brain, with `data.layout: bids`), whose visits have a gain, a bias field and a misplacement
    of their own, as scans of different days have.
    """

    kind: Literal["heart", "brain"] = "heart"
    subjects: Positive = 112
    shape: Shape = (8, 48, 48)
    noise: Annotated[float, Field(ge=0)] = 0.01  # standard deviation, as a fraction of the intensity range
    gain: Annotated[float, Field(ge=0, le=2)] = (
        0.5  # of brains: standard deviation of its logarithm from visit to visit
    )
    bias: Annotated[float, Field(ge=0, le=0.5)] = 0.05  # of brains: of the logarithm of the bias field at its rim
    misplacement: Annotated[float, Field(ge=0, le=10)] = 2.0  # of brains: mm along, and degrees about, each axis
    contrasts: Annotated[tuple[Literal["T1w", "FLAIR"], ...], Field(min_length=1)] = ("T1w", "FLAIR")  # of brains
    lacking: Fraction = 0.0  # of brains: the share of visits that lack one of the contrasts
    treatment: Annotated[float, Field(gt=0, le=1.5)] | None = (
        None  # of hearts: by what the contraction of every second subject, the treated one, is multiplied
    )

    @model_validator(mode="after")
    def _keeps_a_contrast(self) -> Self:
        _refuse_twice(self.contrasts)
        if self.lacking and len(self.contrasts) < 2:
            raise ValueError("lacking goes with two contrasts only: a visit keeps one of them")
        return self

    def facts(self) -> dict[str, Any]:
        """The settings that count for this kind, for a hash or a file; those of later versions where they say more."""
        brains = {"kind", "gain", "bias", "misplacement", "contrasts", "lacking"}
        others = brains if self.kind == "heart" else {"treatment"}
        later = {"contrasts": ("T1w", "FLAIR"), "lacking": 0.0, "treatment": None}
        unsaid = {key for key, usual in later.items() if getattr(self, key) == usual}
        return self.model_dump(mode="json", exclude=others | unsaid)


class SplitSettings(Section):
    """The subjects for training, for choosing settings (val) and for testing. A manifest's `split` column goes first.

    `method`: `stable` gives every subject its split by a hash of its name, whatever the other subjects, so that a test
    subject stays one when the study grows; the sizes are then near the fractions, not equal to them. `balanced` has
    exact sizes and the same share of every group, for a study that is complete. `by` group keeps the subjects of a
    group together (families, sites). With `folds`, the test subjects are those of fold `fold` (from 0), and `test` does
    not count.
    """

    method: Literal["stable", "balanced"] = "stable"
    by: Literal["subject", "group"] = "subject"
    val: Fraction = 0.1
    test: Fraction = 0.15
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _leaves_training_subjects(self) -> Self:
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, but {self.folds} folds are numbered 0 to {self.folds - 1}")
        if self.folds is None and self.val + self.test >= 1:
            raise ValueError("val + test must stay below 1, or no subject is left to train on")
        if self.val >= 1:
            raise ValueError("val must stay below 1, or no subject is left to train on")
        return self


class IntensitySettings(Section):
    """What becomes 0 and 1: the minimum and maximum (the paper), the percentiles 0.5 and 99.5 (values outside are cut
    off), the mean − 3 and + 3 standard deviations, or (`whitestripe`) air and a little more than the brightest tissue,
    which is white matter in T1w and becomes 0.8. `over` says of which scans of a subject: its first one, which is
    always observed, all of them (the paper), through which two numbers of the target become known, or of each visit
    its own, for scanners whose gain differs from visit to visit. `histogram` also brings each visit's percentiles to
    those of the first. `within` foreground leaves the air around a head or brain out of what is measured.
    """

    method: Literal["minmax", "percentile", "zscore", "whitestripe", "histogram"] = "minmax"
    over: Literal["first", "all", "visit"] = "first"
    within: Literal["volume", "foreground"] = "volume"

    @model_validator(mode="after")
    def _histograms_are_of_visits(self) -> Self:
        if self.method == "histogram" and self.over != "visit":
            raise ValueError("method=histogram goes with over=visit only: it is made of each visit")
        return self


class DataSettings(Section):
    """The study on disk and how it becomes shards.

    `root` is the study's folder, a manifest file, or a URL of either (none: the phantom is written and used). In BIDS,
    `suffix` is the contrast, or a list of contrasts that one model has as its channels, where a visit may lack some;
    `match` takes only the files whose path below `root` matches the pattern (`*_run-1_*`).
    The time of a visit is in `time_column` of the sessions.tsv, the participants.tsv, the scans.tsv or the manifest
    (`auto`: the first of the usual names, but exact dates before whole years; `order`: visits are numbered in the order
    of their names); `time_unit` is its unit's name. `labels` is where the label maps (`_dseg.nii.gz`) of a BIDS study
    are: a folder of derivatives below `root`, an absolute path or a URL. With a `*` in its last part, that part chooses
    files by their names (`derivatives/fastsurfer/*_desc-aseg_dseg.nii.gz`). ACDC's lie beside its scans, those of a
    manifest are in its column `labels`. They are looked up when they are needed, and are no part of the shards.

    The volumes are put on one grid: `shape` (d h w) over the whole field of view, or over the `crop`, or at `spacing`
    (mm; d h w) in the centre. `frames` slots are filled by the nearest frame in time; none: all visits are kept,
    however many. A subject with fewer than `min_scans` is left out; 1 is for generating from a single scan, and needs
    `frames` to be none. `register` brings the visits of a subject onto the grid of the first: `header` by where their
    files say that they lie, `rigid` by turning and moving them until they match; with `none` a visit on another grid is
    left out. `shards` is where the shards go (none: into the run's folder).
    """

    root: Location | None = None
    layout: Literal["acdc", "bids", "manifest"] = "acdc"
    suffix: Annotated[str | tuple[str, ...], BeforeValidator(_one_alone)] = "T1w"
    match: str | None = None
    labels: Location | None = None
    time_column: str = "auto"
    time_unit: str | None = None
    max_scan_gb: Annotated[float, Field(gt=0)] = 1.0  # a file that unpacks to more is refused before it is read
    orientation: Literal["native", "canonical"] = "native"
    crop: Literal["none", "foreground"] = "none"
    spacing: tuple[float, float, float] | None = None
    shape: Shape = (8, 32, 32)
    frames: Annotated[int, Field(ge=2)] | None = 8
    min_scans: Annotated[int, Field(ge=1)] = 2
    register: Literal["none", "header", "rigid"] = "none"
    intensity: IntensitySettings = IntensitySettings()
    dtype: Literal["float16", "uint8"] = "float16"
    shards: Location | None = None
    split: SplitSettings = SplitSettings()

    @model_validator(mode="after")
    def _positive_spacing(self) -> Self:
        if self.spacing is not None and min(self.spacing) <= 0:
            raise ValueError(f"spacing must be above 0 mm along each axis, not {self.spacing}")
        return self

    @model_validator(mode="after")
    def _slots_need_two(self) -> Self:
        if self.min_scans < 2 and self.frames is not None:
            raise ValueError("min_scans=1 goes with frames=null only: slots lie between two scans")
        return self

    @model_validator(mode="after")
    def _contrasts_are_of_bids(self) -> Self:
        if isinstance(self.suffix, str):
            return self
        if not self.suffix:
            raise ValueError("suffix is an empty list; name a contrast, such as T1w")
        _refuse_twice(self.suffix)
        wrong = [name for name in self.suffix if not re.fullmatch("[A-Za-z0-9]+", name)]
        if wrong:
            raise ValueError(f"suffix: {wrong[0]!r} is no contrast of BIDS; it is of letters and digits, such as FLAIR")
        if self.layout != "bids":
            raise ValueError(f"suffix: several contrasts go with layout=bids only, not {self.layout}; name one")
        return self

    @model_validator(mode="after")
    def _labels_are_of_bids(self) -> Self:
        if self.labels is not None and self.layout != "bids":
            raise ValueError(
                f"labels goes with layout=bids only, not {self.layout}; leave it out: label maps of acdc lie beside "
                "the scans (…_gt.nii.gz), those of a manifest are in its column labels"
            )
        return self

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The contrasts as files name them."""
        return (self.suffix,) if isinstance(self.suffix, str) else self.suffix

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The contrasts of a frame, a channel each; of one alone the name is empty, as nothing else is called so."""
        return contrasts_of(self.suffix)
