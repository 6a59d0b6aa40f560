"""A run's folder may be called anything: MLflow's database and artifacts lie in it, and nothing beside it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings
from sadm_ray.errors import ConfigError
from sadm_ray.tracking import sqlite_uri as module
from sadm_ray.tracking import tracked_step, tracking_uri
from sadm_ray.tracking.driver_logging import close_all
from sadm_ray.tracking.sqlite_uri import sqlite_file, sqlite_uri

EVERYTHING = "My Drive [x] #2 50%20 a?b&c=ü;@:+'\"`$(x)~,!*|<>^{é日本}"


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    close_all()


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("folder", [EVERYTHING, "plain #1", "100%", "tab\tline\nback\\slash%5C"])
def test_database_and_artifacts_are_in_the_runs_folder(folder: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    place = tmp_path / "work" / folder
    settings = load_settings(None, [f"run.dir={place}", "run.name=r"])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("1")
    with tracked_step(settings, "train") as tracked:
        tracked.metrics({"loss": 3.0}, step=1)
        tracked.params({"folder": str(place)[:100]})
        tracked.artifact(tmp_path / "model")
        tracked.dataset("study", "abc", str(place), {})
        tracked.register(tmp_path / "model", "m", {"digest": "1"})
    assert [str(path) for path in (tmp_path / "work").iterdir()] == [str(place)], "nothing beside it"
    assert {path.name for path in place.iterdir()} == {"r"}
    run_dir = place / "r"
    with closing(sqlite3.connect(run_dir / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone()[0] == 2
    assert len(list((run_dir / "mlartifacts").rglob("weights.txt"))) >= 1
    client = MlflowClient(tracking_uri(settings))
    experiment = client.get_experiment_by_name("sadm-ray")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    train = found["r/train"]
    assert train.data.metrics == {"loss": 3.0}
    got = client.download_artifacts(train.info.run_id, "model", str(tmp_path))
    assert (Path(got) / "weights.txt").read_text() == "1"


@given(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), min_size=1, max_size=30))
@example("a?b")
@example("%")
@example("%41?")
@example("?mode=ro#x")
def test_every_path_is_read_back_from_its_uri(name: str) -> None:
    file = Path("/data") / name / "mlflow.db"
    assert sqlite_file(sqlite_uri(file)) == str(file)


@pytest.mark.parametrize("name", ["runs", "My Drive", "exp #3", "[x]", "ü", "a&b=c"])
def test_a_path_without_signs_of_urls_has_the_uri_that_it_had(name: str) -> None:
    """The journal and the ids of a run that was begun by an earlier version are found by it."""
    assert sqlite_uri(Path(f"/w/{name}/mlflow.db")) == f"sqlite:////w/{name}/mlflow.db"


def test_where_sqlalchemy_cannot_the_line_names_the_key_and_the_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "sqlite_file", lambda uri: uri.partition(":///")[2].partition("?")[0]
    )  # as SQLAlchemy 2.0
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(Settings.model_validate({"run": {"dir": "/w/50%20"}})) == "sqlite:////w/50%20/phantom/mlflow.db"
    with pytest.raises(ConfigError, match=r"run\.dir: /w/a\?b/phantom holds '\?'") as caught:
        tracking_uri(Settings.model_validate({"run": {"dir": "/w/a?b"}}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://h:5000", "postgresql://u:p@h/d", "databricks", "sqlite:///file:x?uri=true"])
def test_other_stores_are_no_file(uri: str) -> None:
    assert sqlite_file(uri) is None
