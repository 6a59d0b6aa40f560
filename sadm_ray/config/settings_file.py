"""Settings files: read from YAML, with `key=value` overrides on top, and mistakes explained in one line.

An unknown or mistyped key is refused with the nearest real one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sadm_ray.config import Settings
from sadm_ray.config.layout_defaults import fit_layout
from sadm_ray.config.presets import preset_file, preset_names
from sadm_ray.config.renamed_settings import current_name, override_with_current_name, with_current_names
from sadm_ray.config.typed_yaml import override_value, read_tree
from sadm_ray.errors import ConfigError


def load_settings(file: Path | str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read settings from `file` and put `key=value` overrides on top.

    Without a file they are on top of the embedded default, that of the phantom; with `data.layout` bids or manifest
    what was not given of frames, orientation and intensities is for visits, and the log says so (`layout_defaults`).

    Args:
        file: a YAML file with any part of the tree, or the name of one that comes with the package (`preset_names`)
            where no file has that name.
        overrides: such as `train.steps=100`, `run.dir=/out/run #3` or `model.denoiser.widths=[64,128]`: of a setting
            that is text as it stands, of all others YAML (`typed_yaml.override_value`).

    Raises:
        ConfigError: a missing or unreadable file, an unknown key or a value that does not fit, in one line.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        found = _file_or_preset(Path(file))
        tree = with_current_names(_read_yaml(found), str(found))
    for override in overrides:
        _apply(tree, override)
    if file is None:
        fit_layout(tree)
    return _validated(tree)


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with other values at some dotted keys.

    Raises:
        ConfigError: an unknown key or a value that does not fit, in one line.
    """
    tree = settings.model_dump(mode="json")
    for key, value in values.items():
        _put(tree, key, value)
    return _validated(tree)


def dump_settings(settings: BaseModel) -> str:
    """Settings as YAML that `load_settings` reads back to an equal tree."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _file_or_preset(file: Path) -> Path:
    """The file itself if there is one, else the packaged one of this name: `acdc_small`, not `configs/acdc_small`."""
    if file.name == str(file) and not file.suffix and not file.is_file():
        return preset_file(file.name) or file
    return file


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = read_tree(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        packaged = ", ".join(preset_names())
        raise ConfigError(
            f"{file}: no such settings file; give a path, or the name of one that comes with sadm-ray: {packaged}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"{file}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected keys and values at the top, found {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{override}': an override is written key=value, such as train.steps=100")
    value = override_value(current_name(key), text)
    _put(tree, *override_with_current_name(key, value, f"'{override}'"))


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: '{parent}' is a value, not a section")
        node = child
    node[last] = value


def _validated(tree: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _known_keys(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, f"{prefix}{name}.")


def _explain(error: ValidationError) -> str:
    """The first problem in one line: the dotted key, what is wrong, what would be right."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        hint = _nearest(key)
        return f"{key}: no such setting" + (f"; did you mean {hint}?" if hint else "")
    message = problem["msg"].removeprefix("Value error, ")
    more = len(error.errors()) - 1
    tail = f" (and {more} more)" if more else ""
    if problem["type"] == "value_error":
        return (f"{key}: " if key else "") + message + tail
    value: Any = problem["input"]
    shown = f", not {value!r}" if not isinstance(value, Mapping | list | tuple | BaseModel) else ""
    return f"{key}: {message[0].lower()}{message[1:]}{shown}{tail}"


def _nearest(key: str) -> str | None:
    known = list(_known_keys())
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return close[0]
    # The right word in the wrong section: look for the last part alone.
    by_last = {name.rsplit(".", 1)[-1]: name for name in known}
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last, n=1, cutoff=0.75)
    return by_last[close[0]] if close else None
