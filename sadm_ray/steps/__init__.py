"""The steps of a run as functions of the settings: what the command line and the pipelines call.

The module of a step is imported when the step is first used: all of them took 13 s of a CPU, a single one 5.

Every step reads what the one before left in the run's folder and writes its own place in it:

    study/        the phantom's NIfTI, when no study is given
    shards/       Parquet by split, and _study.json
    model/        the trained model; model.ray/ has its checkpoints (unless `train.storage` names a place)
    model/recalibration.json   what it is corrected by, and its bounds; calibration/ has the trainings for it
    tuned.yaml    the best sampling settings, tuned-training.yaml those of training; sweeps/ has trials and figures
    generated/    NIfTI and predictions; generated-…/ those of other requests
    evaluation/   metrics and tables
    compare/      the trainings of a comparison, its tables and its report
    report.html   tracking.json   mlflow.db (unless another store is set)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_MODULES = {
    "calibrate": "sadm_ray.steps.calibration_steps",
    "compare": "sadm_ray.steps.comparison_steps",
    "estimate": "sadm_ray.steps.training_steps",
    "evaluate": "sadm_ray.steps.evaluation_steps",
    "generate": "sadm_ray.steps.generation_steps",
    "inspect": "sadm_ray.steps.study_steps",
    "is_prepared": "sadm_ray.steps.run_folder",
    "prepare": "sadm_ray.steps.study_steps",
    "train": "sadm_ray.steps.training_steps",
    "tune": "sadm_ray.steps.sampling_steps",
    "tune_training": "sadm_ray.steps.training_steps",
}

__all__ = [
    "calibrate",
    "compare",
    "estimate",
    "evaluate",
    "generate",
    "inspect",
    "is_prepared",
    "prepare",
    "train",
    "tune",
    "tune_training",
]

if TYPE_CHECKING:
    from sadm_ray.steps.calibration_steps import calibrate
    from sadm_ray.steps.comparison_steps import compare
    from sadm_ray.steps.evaluation_steps import evaluate
    from sadm_ray.steps.generation_steps import generate
    from sadm_ray.steps.run_folder import is_prepared
    from sadm_ray.steps.sampling_steps import tune
    from sadm_ray.steps.study_steps import inspect, prepare
    from sadm_ray.steps.training_steps import estimate, train, tune_training
else:  # a type checker would take any name for granted

    def __getattr__(name: str) -> Any:
        """Import the module of a step when it is first used (PEP 562)."""
        from importlib import import_module

        if name not in _MODULES:
            raise AttributeError(f"module 'sadm_ray.steps' has no attribute '{name}'")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
