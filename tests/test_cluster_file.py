"""The cluster file against Ray's own check."""

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[1] / "cluster.yaml"


def check(tree: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(tree))


def test_rays_own_check_accepts_it() -> None:
    check(yaml.safe_load(FILE.read_text()))


def test_the_check_sees_a_wrong_key() -> None:
    tree = yaml.safe_load(FILE.read_text()) | {"max_wrokers": 4}
    with pytest.raises(Exception, match="max_wrokers"):
        check(tree)
