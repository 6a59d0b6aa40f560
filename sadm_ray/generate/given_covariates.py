"""Covariates that a request gives to the wanted visit, such as a treatment: read, checked, and part of its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from sadm_ray.config import CovariateSettings
from sadm_ray.data.load.collate import covariate_value
from sadm_ray.errors import ConfigError

Given = Mapping[str, float | str]
"""Values by name: a level as the model spells it, or a number."""


def planned_of(models: Iterable[Sequence[CovariateSettings]]) -> tuple[CovariateSettings, ...]:
    """The planned ones among the covariates of some models, each once."""
    return tuple(dict.fromkeys(each for covariates in models for each in covariates if each.planned))


def given_value(planned: Sequence[CovariateSettings], name: str, text: str) -> float | str:
    """What `text` says of the planned covariate `name`.

    Raises:
        ValueError: the models have no such planned covariate, or the value is none of its levels, or no number.
    """
    known = [each for each in planned if each.name == name]
    if not known:
        names = ", ".join(dict.fromkeys(each.name for each in planned))
        mend = f"those that can be given are {names}" if names else "this model has none that can be given (planned)"
        raise ValueError(f"{name} is no planned covariate of the model; {mend}")
    value: float | str = text
    for each in known:  # several models may have it
        found = covariate_value(each, text)
        if each.levels and found is None:
            raise ValueError(f"{name}: '{text}' is none of the levels {', '.join(each.levels)}")
        if found is None or not math.isfinite(found):
            raise ValueError(f"{name}: '{text}' is no number")
        value = each.levels[int(found)] if each.levels else found
    return value


def combinations(texts: Sequence[str], planned: Sequence[CovariateSettings]) -> list[Given]:
    """All that `generate.given` asks for: each value of one covariate with each of the others; one that is empty.

    Args:
        texts: `name=value`; a name may stand there more than once.

    Raises:
        ConfigError: the models do not know a name or a value.
    """
    values: dict[str, list[float | str]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            values.setdefault(name, []).append(given_value(planned, name, value))
        except ValueError as error:
            raise ConfigError(f"generate.given: {error}") from None
    distinct = [list(dict.fromkeys(each)) for each in values.values()]
    return [dict(zip(values, some, strict=True)) for some in product(*distinct)]


def in_words(given: Given) -> str:
    """`treatment=B dose=2.5`."""
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in given.items()
    )


def request_name(name: str, given: Given) -> str:
    """The name of a request under what is given: `visits treatment=B`."""
    return f"{name} {in_words(given)}" if given else name
