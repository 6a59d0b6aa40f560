"""Where the label maps of a prepared phantom are known to be: its study has no `data.root`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sadm_ray.data.label_maps import LabelMaps, labels_of
from sadm_ray.data.shards.prepared_study import read_study, read_subject

pytestmark = pytest.mark.ray


def test_the_label_maps_of_the_phantom_are_found_from_its_shards(shards: str) -> None:
    study = read_study(shards)
    assert study.settings["root"] is None
    row = read_subject(study, study.names("test")[0])
    maps = LabelMaps.of(row, labels_of(study))
    labelled = [slot for slot in range(len(row["present"])) if maps.at(slot) is not None]
    assert labelled == [0, 5], "end-diastole and end-systole"
    ed, es = (maps.at(slot) for slot in labelled)
    assert ed is not None
    assert es is not None
    assert es.volumes["LV cavity"] < ed.volumes["LV cavity"]
    blood = row["frames"][0, 0][ed.mask("LV cavity")]
    assert np.median(blood) > 0.6, "the map lies on the scan"


def test_shards_of_an_earlier_version_do_not_say_where_the_phantom_is(shards: str) -> None:
    assert labels_of(replace(read_study(shards), scans="")) is None
