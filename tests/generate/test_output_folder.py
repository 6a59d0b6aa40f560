from pathlib import Path

import pytest

from sadm_ray.errors import ConfigError
from sadm_ray.generate.output_folder import refuse_out


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("{}/run", "is the run's folder"),
        ("{}", "holds the run's folder"),
        ("{}/link", "is the run's folder"),
        ("{}/bids", "is the study"),
        ("{}/bids/sub-1", "lies in the study"),
        ("{}/run/generated/../model", "is the model"),
        ("{}/table.csv", "is a file"),
        ("s3://bucket", "holds the shards"),
        ("s3://bucket/a/shards/", "is the shards"),
        ("s3://bucket/a/shards/new", "lies in the shards"),
        ("{}/run/generated", ""),
        ("{}/running", ""),
        ("{}/bids/derivatives/sadm-ray", ""),
        ("{}/other", ""),
        ("s3://bucket/a/generated", ""),
        ("s3://bucket/a/shards-new", ""),
    ],
)
def test_where_volumes_may_be_written(tmp_path: Path, out: str, reason: str) -> None:
    run, study = tmp_path / "run", tmp_path / "bids"
    run.mkdir()
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "table.csv").touch()
    places = {"the study": str(study), "the shards": "s3://bucket/a/shards", "the model": str(run / "model")}
    where = out.format(tmp_path)
    if not reason:
        refuse_out(where, places, run)
        return
    with pytest.raises(ConfigError, match=rf"generate\.out: {where} {reason}.*; take a folder of its own"):
        refuse_out(where, places, run)
