"""Split subjects into train, val and test: by name, never by scan."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sadm_ray.config import SplitSettings
from sadm_ray.data.find.catalog import Subject
from sadm_ray.errors import DataError


def split_subjects(subjects: Sequence[Subject], settings: SplitSettings, seed: int) -> dict[str, str]:
    """The split of every subject, by name.

    `stable`: a hash of the seed and the name (or the group, with `by=group`) decides alone, so that a subject
    keeps its split when others come or go. `balanced`: units are ranked by that hash within their group, the groups are
    interleaved evenly, and windows of that order have exact sizes; every fraction above 0 gets a unit while one remains
    to train on.
    A subject's own `split` takes precedence over both, for all of its unit.

    Raises:
        DataError: a unit has subjects with different splits of their own.
    """
    given: dict[str, str] = {}
    for subject in subjects:
        if subject.split is not None and given.setdefault(_unit(subject, settings), subject.split) != subject.split:
            raise DataError(
                f"subject {subject.name}: the study gives it the split '{subject.split}', and another subject of its "
                f"group '{subject.group}' '{given[_unit(subject, settings)]}'; with data.split.by=group a group has "
                "one split"
            )
    unassigned = [subject for subject in subjects if _unit(subject, settings) not in given]
    assign = _stable if settings.method == "stable" else _balanced
    split_of_unit = (assign(unassigned, settings, seed) if unassigned else {}) | given
    return {subject.name: split_of_unit[_unit(subject, settings)] for subject in subjects}


def _unit(subject: Subject, settings: SplitSettings) -> str:
    """What is kept together: a group, or a single subject."""
    return f"group:{subject.group}" if settings.by == "group" and subject.group else subject.name


def _hash(*values: object) -> float:
    """A number in [0, 1) that depends on the values only."""
    digest = hashlib.sha256(":".join(map(str, values)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _test_window(settings: SplitSettings) -> tuple[float, float]:
    if settings.folds is None:
        return 0.0, settings.test
    return settings.fold / settings.folds, (settings.fold + 1) / settings.folds


def _val_fraction(settings: SplitSettings) -> float:
    """The fraction of the subjects that are not tested: without folds, `val` is a fraction of all."""
    return settings.val if settings.folds is not None else settings.val / (1 - settings.test)


def _stable(subjects: Sequence[Subject], settings: SplitSettings, seed: int) -> dict[str, str]:
    low, high = _test_window(settings)
    split_of_unit = {}
    for unit in {_unit(subject, settings) for subject in subjects}:
        tested = low <= _hash(seed, unit) < high
        validating = _hash(seed, "val", unit) < _val_fraction(settings)  # a hash of its own: the folds keep their size
        split_of_unit[unit] = "test" if tested else "val" if validating else "train"
    return split_of_unit


def _balanced(subjects: Sequence[Subject], settings: SplitSettings, seed: int) -> dict[str, str]:
    sizes: dict[str, int] = {}
    strata: dict[str, list[str]] = {}
    for subject in subjects:
        unit = _unit(subject, settings)
        if unit not in sizes:
            strata.setdefault("" if settings.by == "group" else subject.group, []).append(unit)
        sizes[unit] = sizes.get(unit, 0) + 1
    positions = []
    for stratum, units in strata.items():
        units.sort(key=lambda unit: _hash(seed, unit))
        positions += [((rank + 0.5) / len(units), stratum, unit) for rank, unit in enumerate(units)]
    order = [unit for _, _, unit in sorted(positions)]
    tested = _window(order, sizes, *_test_window(settings))
    rest = [unit for unit in order if unit not in tested]
    validating = _window(rest, sizes, 0.0, _val_fraction(settings))
    return {unit: "test" if unit in tested else "val" if unit in validating else "train" for unit in order}


def _window(order: Sequence[str], sizes: dict[str, int], low: float, high: float) -> set[str]:
    """The units whose middle lies in [low, high) of the order; one at least, if another remains."""
    total, passed, chosen = sum(sizes[unit] for unit in order), 0, set()
    for unit in order:
        if low <= (passed + sizes[unit] / 2) / total < high:
            chosen.add(unit)
        passed += sizes[unit]
    if not chosen and high > low and len(order) > 1:
        chosen.add(order[min(int(low * len(order)), len(order) - 1)])
    return chosen if len(chosen) < len(order) else chosen - {order[-1]}
