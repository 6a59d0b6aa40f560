"""Warm start: a training that begins with the weights of another model (`train.start_from`).

A weight is taken where name and shape agree. What was measured on the other study (`difference_scale`), its averages of
the weights and its optimizer are not taken: they begin anew.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sadm_ray.config import Settings, flatten
from sadm_ray.data.shards.fingerprints import fingerprints, person_is_group
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel

log = logging.getLogger(__name__)

_COVARIATE = re.compile(r"(conditioner\.covariates)\.(subject|visit)\.(\d+)\.(.+)")
_MOST_LISTED = 6


@dataclass(frozen=True)
class StartWeights:
    """What of a start model is in a new model: names of the new one's weights, by what became of them."""

    taken: tuple[str, ...]
    new: tuple[str, ...]
    reshaped: tuple[str, ...]
    share: float
    """Of the new model's numbers that are taken."""

    def __str__(self) -> str:
        kinds = (("new", self.new), ("of another shape", self.reshaped))
        total = len(self.taken) + len(self.new) + len(self.reshaped)
        rest = [f"{what}: {_parts(names)}" for what, names in kinds if names]
        taken = f"{len(self.taken)} of {total} weights ({self.share:.0%} of all numbers) are taken"
        return "; ".join([taken, *rest])


@torch.no_grad()
def start_weights(model: SequenceModel, start: SequenceModel) -> StartWeights:
    """Copy the weights of `start` into `model` where name and shape agree; a covariate's, where its settings do."""
    before = dict(start.named_parameters())
    taken, new, reshaped, numbers, total = [], [], [], 0, 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        source = _source(name, model.config, start.config, before)
        if source is None:
            new.append(name)
        elif source.shape != parameter.shape:
            reshaped.append(name)
        else:
            parameter.copy_(source)
            taken.append(name)
            numbers += parameter.numel()
    return StartWeights(tuple(taken), tuple(new), tuple(reshaped), numbers / max(total, 1))


def read_start_model(settings: Settings, model: SequenceModel) -> StoredModel | None:
    """The model that `train.start_from` names, of which weights go into `model`; tells in a line or two which.

    Raises:
        ConfigError: it is of another kind, or has no weight that goes into `model`.
        DataError: there is no model, or it is damaged.
    """
    folder = settings.train.start_from
    if folder is None:
        return None
    stored = StoredModel.read(folder)
    start = stored.build()
    kind, wanted = start.config.model.kind, model.config.model.kind
    if kind != wanted:
        raise ConfigError(
            f"train.start_from: {folder} is a model of kind {kind}, and this run trains one of kind {wanted}; name a "
            f"model of that kind, or set model.kind={kind}"
        )
    weights = start_weights(model, start)
    if not weights.taken:
        raise ConfigError(
            f"train.start_from: no weight of {folder} has name and shape of one of this run's model; set `model` as "
            "its config.json has it"
        )
    log.warning("train.start_from: %s: %s", folder, weights)
    differences = _differences(start.config, model.config)
    if differences:
        log.warning("train.start_from: what differs, there and here: %s", "; ".join(differences))
    return stored


def tell_of_taught(study: Study, start: StoredModel) -> None:
    """Say who of those that validate or test this run has taught the start model; they will be scored apart."""
    where = start.source.rpartition("/")[0]
    if not start.seen.complete:
        log.warning(
            "train.start_from: %s: it is not recorded whom it was trained on, so that nobody will count as a test "
            "subject; train it again to know",
            where,
        )
    who = fingerprints(study, groups=person_is_group(study))
    found = {
        split: [name for name in study.subjects.get(split, ()) if start.seen.seen_as(who[name]) in ways]
        for split, ways in (("test", ("train", "val")), ("val", ("train",)))
    }
    if found["test"]:
        log.warning(
            "train.start_from: %s was trained, or something was chosen, on %d of this run's %d test subjects (%s); "
            "they will be scored apart, and not as test subjects",
            where,
            len(found["test"]),
            len(study.subjects["test"]),
            _some(found["test"]),
        )
    if found["val"]:
        log.warning(
            "train.start_from: %s was trained on %d of this run's %d validation subjects (%s): their scores are too "
            "good, and no sampling settings can be chosen on them; take another split, or another start model",
            where,
            len(found["val"]),
            len(study.subjects["val"]),
            _some(found["val"]),
        )


def _source(name: str, now: ModelConfig, before: ModelConfig, weights: Mapping[str, Tensor]) -> Tensor | None:
    """The start model's weight that stands for this one.

    Covariates are numbered, and known by their settings. Whether one is planned makes no other weights.
    """
    found = _COVARIATE.fullmatch(name)
    if found is None:
        return weights.get(name)
    module, of, place, rest = found.groups()
    here, there = (
        [each.model_copy(update={"planned": False}) for each in config.model.covariates if each.of == of]
        for config in (now, before)
    )
    covariate = here[int(place)]
    return weights.get(f"{module}.{of}.{there.index(covariate)}.{rest}") if covariate in there else None


def _differences(before: ModelConfig, now: ModelConfig) -> list[str]:
    """What is another in the two models, in words; what follows from these is not listed."""
    pairs: dict[str, tuple[Any, Any]] = {
        "grid": (_product(before.shape), _product(now.shape)),
        "contrasts": (_contrasts(before), _contrasts(now)),
        "covariates": (_covariates(before), _covariates(now)),
        "times in": (before.time_unit or "no unit", now.time_unit or "no unit"),
    }
    trees = [{**flatten(config.model, "model."), **flatten(config.diffusion, "diffusion.")} for config in (before, now)]
    left_out = {"model.covariates", "model.difference_scale"}
    pairs |= {key: (trees[0].get(key), trees[1].get(key)) for key in dict.fromkeys([*trees[1], *trees[0]])}
    lines = [f"{key} {a}, {b}" for key, (a, b) in pairs.items() if a != b and key not in left_out]
    return lines[:_MOST_LISTED] + (["…"] if len(lines) > _MOST_LISTED else [])


def _product(shape: Sequence[int]) -> str:
    return "×".join(str(size) for size in shape)


def _contrasts(config: ModelConfig) -> str:
    suffix = config.prepared.get("suffix")
    names = [suffix] if isinstance(suffix, str) else list(suffix or ())
    return "+".join(names) if len(names) == config.channels > 1 else str(config.channels)


def _covariates(config: ModelConfig) -> str:
    named = (f"{each.name} (planned)" if each.planned else each.name for each in config.model.covariates)
    return "+".join(named) or "none"


def _parts(names: Iterable[str]) -> str:
    """The networks that the weights belong to, with their number."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    listed = [f"{part} ({count})" for part, count in counts.items()]
    return ", ".join(listed[:_MOST_LISTED] + (["…"] if len(listed) > _MOST_LISTED else []))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
