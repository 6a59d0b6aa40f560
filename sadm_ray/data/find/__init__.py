"""Find the subjects of a study on disk or behind a URL, by listing it and reading its tables.

No image is opened: the workers do that, one subject at a time (`sadm_ray.data.read.subject_scans`).
"""

from __future__ import annotations

from sadm_ray.config import DataSettings
from sadm_ray.data.find.acdc import find_acdc
from sadm_ray.data.find.bids import find_bids
from sadm_ray.data.find.catalog import SPLITS, Catalog, Covariates, Problem, Scan, Subject
from sadm_ray.data.find.manifest import find_manifest

__all__ = ["SPLITS", "Catalog", "Covariates", "Problem", "Scan", "Subject", "find_subjects"]

LAYOUTS = {"acdc": find_acdc, "bids": find_bids, "manifest": find_manifest}


def find_subjects(root: str, settings: DataSettings) -> Catalog:
    """Find the subjects below `root` in the layout of the settings.

    Raises:
        DataError: `root` is missing, cannot be listed, or holds no subject at all.
    """
    return LAYOUTS[settings.layout](root, settings)
