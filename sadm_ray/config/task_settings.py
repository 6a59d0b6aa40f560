"""Settings of the tasks of an evaluation."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from sadm_ray.config.base import Name, Section

OWN_NAMES = frozenset(
    {
        *("predictions", "shards", "manifest.parquet", "request.json", "seen_subjects.json", "failures.csv"),
        *("volumes.csv", "volumes-summary.csv", "differences.csv"),
    }
)
"""Files and folders of an output folder that are ours."""
OUTPUT_NAMES = OWN_NAMES | {
    *(
        "dataset_description.json",
        "descriptions.tsv",
        "readme",
        "readme.md",
        "readme.txt",
        "readme.rst",
        "changes",
        "license",
    )
}
"""Files and folders of an output folder, of ours or of BIDS, in lower case: no task or request may be called so, as
earlier versions wrote a folder of its name. Some disks do not tell upper from lower case."""


class TaskSettings(Section):
    """Observed and target frames of one evaluation task, as slots of the sequence (negative: counted from the end).

    The `targets` are generated one after another, gaps halved first; each generated frame then counts as observed.
    """

    name: Name
    observed: tuple[int, ...] = Field(min_length=1)
    targets: tuple[int, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _own_folder(cls, name: str) -> str:
        if name.lower() in OUTPUT_NAMES:
            raise ValueError(f"'{name}' is a file or folder of every output folder; give the task another name")
        return name

    @model_validator(mode="after")
    def _apart(self) -> Self:
        both = set(self.observed) & set(self.targets)
        if both:
            raise ValueError(f"frame {min(both)} of task '{self.name}' is both observed and a target")
        return self
