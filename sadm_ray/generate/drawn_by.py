"""Which models, with which sampling settings, drew what lies in a folder."""

from __future__ import annotations

from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.generation_plan import model_folders
from sadm_ray.generate.generation_record import REQUEST, models_of, read_request
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.storage import Storage


def sampling_of(generated: Storage, settings: Settings) -> SamplingSettings:
    """How the volumes in a folder were drawn.

    Raises:
        ConfigError: other models than those of the settings drew them.
        DataError: nothing was generated there.
    """
    request = read_request(generated)
    if request is None:
        raise DataError(f"{generated.location}: no predictions here; generate some first")
    try:
        sampling = SamplingSettings.model_validate(request["sampling"])
        drew = models_of(request)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{generated.where(REQUEST)}: is damaged ({type(error).__name__}); run `sadm-ray generate` again with "
            "generate.replace=true"
        ) from None
    folders = model_folders(settings)
    now = tuple(StoredModel.read(folder, sampling.ema).recalibrated(sampling).identity for folder in folders)
    if drew != now:
        raise ConfigError(
            f"{generated.location}: drawn by other models ({', '.join(each[:12] for each in drew)}) than those of "
            f"{', '.join(folders)} ({', '.join(each[:12] for each in now)}); run `sadm-ray generate` again with "
            "generate.replace=true, or name the models that drew them in generate.model and generate.ensemble"
        )
    return sampling
