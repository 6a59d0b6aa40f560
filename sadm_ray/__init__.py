"""sadm-ray: sequence-aware diffusion for longitudinal 3D scans, on Ray.

Implements SADM (Yoon et al., IPMI 2023). Importing this package imports nothing heavy: what a notebook needs is here by
name (`__all__`), and its module is imported when the name is first used.

    settings = sadm_ray.load_settings("acdc_small", ["data.root=/path/to/acdc"])
    study = sadm_ray.steps.prepare(settings)
    row = sadm_ray.read_subject(study, study.names("test")[0])
    model = sadm_ray.load_model("runs/acdc-small/model")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "SamplingSettings": "sadm_ray.config",
    "Settings": "sadm_ray.config",
    "load_model": "sadm_ray.model.pretrained",
    "load_settings": "sadm_ray.config.settings_file",
    "read_predictions": "sadm_ray.generate.generation_record",
    "read_study": "sadm_ray.data.shards.prepared_study",
    "read_subject": "sadm_ray.data.shards.prepared_study",
}
"""Where each name is defined. The steps are reached by their module: `train`, `generate` and others are packages."""

__all__ = [
    "SamplingSettings",
    "Settings",
    "load_model",
    "load_settings",
    "read_predictions",
    "read_study",
    "read_subject",
    "steps",
]

if TYPE_CHECKING:
    from sadm_ray import steps
    from sadm_ray.config import SamplingSettings, Settings
    from sadm_ray.config.settings_file import load_settings
    from sadm_ray.data.shards.prepared_study import read_study, read_subject
    from sadm_ray.generate.generation_record import read_predictions
    from sadm_ray.model.pretrained import load_model
else:  # a type checker would take any name for granted

    def __getattr__(name: str) -> Any:
        """Import what `__all__` names when it is first used (PEP 562)."""
        from importlib import import_module

        if name == "steps":
            return import_module("sadm_ray.steps")
        if name not in _MODULES:
            raise AttributeError(f"module 'sadm_ray' has no attribute '{name}'")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
