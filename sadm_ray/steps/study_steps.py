"""The steps that look at a study and prepare it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from sadm_ray.cluster import ray_session, require_shared
from sadm_ray.config import Settings, flatten
from sadm_ray.data.inspect.inspection import Inspection, inspect_study
from sadm_ray.data.phantom import PHANTOM_LAYOUTS, write_phantom
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.run_lock import alone_in
from sadm_ray.steps.run_folder import alone_in_run, shards_folder, study_root
from sadm_ray.tracking import tracked_step


def inspect(settings: Settings, pictures: Path | None = None) -> Inspection:
    """Look through the study (the phantom is written first when none is given); pictures of it go to `pictures`."""
    writes = settings.data.root is None
    with alone_in(settings.run_dir, "run.name") if writes else nullcontext(), ray_session(settings):
        if writes:
            _write_phantom(settings)
        return inspect_study(settings, study_root(settings), pictures)


@alone_in_run
def prepare(settings: Settings) -> Study:
    """Catalog the study (the phantom is written first when none is given) and turn it into shards."""
    shards = shards_folder(settings)
    with alone_in(shards, "data.shards"), tracked_step(settings, "prepare") as tracked, ray_session(settings):
        root = study_root(settings)
        require_shared(shards, "data.shards", "a folder that all nodes share, or a URL")
        if settings.data.root is None:
            _write_phantom(settings)
        study = prepare_study(settings, root, shards)
        tracked.tags(flatten(settings.data, "data.") | {"digest": study.digest})  # parameters could not change
        tracked.metrics({f"subjects_{split}": len(names) for split, names in study.subjects.items()})
        tracked.metrics({"problems": len(study.problems)})
        return study


def _write_phantom(settings: Settings) -> None:
    layout = PHANTOM_LAYOUTS[settings.phantom.kind]
    if settings.data.layout != layout:
        raise ConfigError(
            f"data.layout={settings.data.layout}: name your study in data.root; without one the phantom is written, "
            f"and phantom.kind={settings.phantom.kind} has the layout {layout}"
        )
    write_phantom(Path(study_root(settings)), settings.phantom, settings.seed)
