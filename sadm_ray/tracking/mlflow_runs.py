"""The MLflow runs of a pipeline run, made when something is first recorded of them."""

from __future__ import annotations

from sadm_ray.tracking.log_record import TrackingStore, parent_of
from sadm_ray.tracking.mlflow_client import LazyClient
from sadm_ray.tracking.run_ids import RunIds
from sadm_ray.tracking.sqlite_uri import is_sqlite

MARK = "sadm_ray.mark"


class MlflowRuns:
    """Key → MLflow run. All methods raise MLflow's errors when it is out of reach."""

    def __init__(self, place: TrackingStore, client: LazyClient) -> None:
        self._place, self._client = place, client
        self._ids = RunIds(place.folder, place.uri)

    def known(self, key: str) -> str | None:
        """The id of a run that was made already."""
        return self._ids.known().get(key)

    def get(self, key: str, started: int) -> str:
        """The id of a run, which is made, with those above it, if it was not yet.

        Args:
            started: when the run was begun, in ms.
        """
        if (known := self.known(key)) is not None:
            return known
        parent = parent_of(key)
        above = self.get(parent, started) if parent else None
        with self._ids.alone():
            run = self.known(key) or self._found(key) or self._made(key, above, started)
            self._ids.set(key, run)
            return run

    def again(self, key: str, started: int) -> str:
        """A new run for a key whose run is no longer there (the store's file was removed)."""
        with self._ids.alone():
            self._ids.set(key, None)
        return self.get(key, started)

    def _found(self, key: str) -> str | None:
        """The run of that key that an earlier try made, if that was killed or its answer was lost."""
        mark = f"tags.`{MARK}` = '{self._ids.mark(key)}'"
        runs = self._client().search_runs([self._experiment()], filter_string=mark, max_results=1)
        self._client.heard()
        return str(runs[0].info.run_id) if runs else None

    def _made(self, key: str, parent: str | None, started: int) -> str:
        name, tags = self._place.name, {MARK: self._ids.mark(key)}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
            name = key.rpartition("/")[2] if "/" in key else f"{name}/{key}"
        run = self._client().create_run(self._experiment(), start_time=started, run_name=name, tags=tags)
        self._client.heard()
        return str(run.info.run_id)

    def _experiment(self) -> str:
        client, name = self._client(), self._place.experiment
        known = client.get_experiment_by_name(name)
        self._client.heard()
        if known is not None:
            return str(known.experiment_id)
        # Beside a sqlite store the artifacts need an absolute place, or they land in some working directory.
        place = (self._place.folder / "mlartifacts").as_uri() if is_sqlite(self._place.uri) else None
        made = client.create_experiment(name, artifact_location=place)
        self._client.heard()
        return str(made)
