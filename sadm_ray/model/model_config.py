"""The settings that define a model, apart from its weights."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from sadm_ray.config import DiffusionSettings, ModelSettings, Section, Shape, check_prediction
from sadm_ray.config.renamed_settings import with_current_names

CONFIG = "config.json"


class ModelConfig(Section):
    """Stored beside the weights as `config.json`.

    `preparation` is the digest of how its training volumes were prepared; it is only used on volumes prepared alike.
    `prepared` (settings of `data`) and `time_unit` say how, so that other studies can be prepared the same way.
    """

    shape: Shape
    channels: Annotated[int, Field(gt=0)] = 1
    model: ModelSettings = ModelSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    preparation: str = ""
    prepared: dict[str, Any] = Field(default_factory=dict)
    time_unit: str = ""

    @classmethod
    def read(cls, content: bytes, source: str) -> ModelConfig:
        """From the content of a `config.json`; settings under an old name are read under the new one.

        Args:
            source: the file, for messages.

        Raises:
            ValueError: it is damaged, or no model's config.
            ConfigError: a setting stands there under both names.
        """
        tree = json.loads(content)
        if not isinstance(tree, dict):
            raise ValueError(f"expected keys and values at the top, found {type(tree).__name__}")  # noqa: TRY004
        named = with_current_names(tree, source)
        if isinstance(named.get("model"), dict):
            named["model"].setdefault("motion_modes", 0)  # earlier versions had none
        return cls.model_validate(named)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_prediction(self.model, self.diffusion)
        return self
