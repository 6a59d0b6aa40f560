"""How Ray Train's trainer is set up."""

from __future__ import annotations

import pytest
from ray.train.torch import TorchTrainer

from sadm_ray.cluster import PRIVATE
from sadm_ray.train.trainer import Trainer

CLEANER = "PlacementGroupCleanerCallback"


def callbacks(kind: type[TorchTrainer] = Trainer) -> list[str]:
    return [type(each).__name__ for each in kind(lambda: None)._create_default_callbacks()]


def test_the_cleaner_of_placement_groups_is_for_clusters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may ask another Ray for its controller (`findings/ray_state_api_asks_another_ray.sh`)."""
    for name in PRIVATE:
        monkeypatch.delenv(name, raising=False)
    on_a_cluster = callbacks()
    assert CLEANER in on_a_cluster
    for name, value in PRIVATE.items():
        monkeypatch.setenv(name, value)
    assert callbacks() == [each for each in on_a_cluster if each != CLEANER]


def test_no_process_deals_out_data_sets_that_there_are_not() -> None:
    """`DatasetsCallback` starts one at every training; ours passes no data set to Ray Train."""
    assert "DatasetsCallback" in [
        type(each).__name__ for each in TorchTrainer(lambda: None)._create_default_callbacks()
    ]
    assert "DatasetsCallback" not in callbacks()
