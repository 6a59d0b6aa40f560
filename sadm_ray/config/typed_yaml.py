"""YAML read with the types of the settings in hand: a setting that is text gets the text that stands there.

YAML alone makes a number of `2024`, `false` of `NO`, an alias of `*_run-1_*`, and drops what follows ` #`.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from sadm_ray.config import Settings
from sadm_ray.config.renamed_settings import current_name
from sadm_ray.errors import ConfigError

_STR, _NULL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge"))
_TEXT_TYPES = (str, Path)
_NOTHING = {"null", "none"}


def read_tree(text: str) -> Any:
    """A settings file's tree, still under the names that stand there; a plain scalar of a text setting stays its text.

    Raises:
        yaml.YAMLError: not valid YAML.
    """
    return _constructed(text, Settings, "")


def override_value(key: str, text: str) -> Any:
    """What the text after `key=` stands for. Of a text setting it is the value, whatever YAML would make of it.

    An optional one is unset by `null`, `none` or nothing; quotes around the whole of it, which YAML would need, are
    taken off. All else is YAML, and in its lists and mappings text stays text, too.

    Args:
        key: dotted, from the top of the tree, as it is called now.

    Raises:
        ConfigError: no valid YAML, or nothing at all for a text setting that is needed.
    """
    annotation = _annotation_of(key)
    if not _is_text(annotation) or (_takes_list(annotation) and text.lstrip().startswith("[")):
        try:
            return _constructed(text, annotation, f"{key}.")
        except (yaml.YAMLError, RecursionError):
            raise ConfigError(f"{key}: the value {text!r} is not valid YAML") from None
    optional = type(None) in _members(annotation)
    if optional and text.strip().lower() in {"", *_NOTHING}:
        return None
    if not text:
        raise ConfigError(f"{key}: nothing follows the '='; give a value, or leave {key} out")
    return _without_quotes(text)


def _without_quotes(text: str) -> str:
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    # Quotes around two parts are no quotes around the whole: 'a' or 'b'.
    return str(node.value) if node is not None and node.end_mark.index == len(text) else text


def _constructed(text: str, annotation: Any, below: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        return loader.construct_document(_with_text(node, annotation, below, set()))
    finally:
        loader.dispose()


def _with_text(node: yaml.Node, annotation: Any, below: str, above: set[int]) -> yaml.Node:
    """The node with every scalar of a text setting tagged as text. `above`: what holds it, as a merge may go round."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in (_STR, _NULL) or not _is_text(annotation):
            return node
        return yaml.ScalarNode(_STR, node.value, node.start_mark, node.end_mark, node.style)
    if annotation is Any or id(node) in above:
        return node
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        items = _items(annotation, len(node.value))
        node.value[:] = [_with_text(each, item, below, above) for each, item in zip(node.value, items, strict=True)]
    elif isinstance(node, yaml.MappingNode):
        node.value[:] = [(key, _with_text(value, *_below(key, annotation, below), above)) for key, value in node.value]
    return node


def _below(key: yaml.Node, annotation: Any, below: str) -> tuple[Any, str]:
    """The type of what a key of a mapping holds, and the dotted name of what is below it."""
    if key.tag == _MERGE:
        return annotation, below
    full = current_name(f"{below}{key.value}")
    return _field(annotation, full.removeprefix(below)), f"{full}."


def _annotation_of(key: str) -> Any:
    """The type of a setting by its dotted name; `Any` where there is none."""
    annotation: Any = Settings
    for part in key.split("."):
        annotation = _field(annotation, part)
    return annotation


def _field(annotation: Any, name: str) -> Any:
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel) and name in member.model_fields:
            return member.model_fields[name].annotation
        if get_origin(member) is dict:
            return get_args(member)[1]
    return Any


def _items(annotation: Any, count: int) -> list[Any]:
    """The types of the items of a list of so many."""
    for member in _members(annotation):
        types_of = get_args(member)
        if get_origin(member) is tuple and types_of:
            if types_of[-1] is Ellipsis:
                return [types_of[0]] * count
            return [*types_of, *([Any] * count)][:count]
    return [annotation if get_origin(annotation) is None else Any] * count  # a list of mappings that are merged


def _is_text(annotation: Any) -> bool:
    """Whether a single value of the setting is text; several of them may be a list."""
    members = [
        member for member in _members(annotation) if member is not type(None) and get_origin(member) is not tuple
    ]
    return bool(members) and all(map(_is_text_type, members))


def _takes_list(annotation: Any) -> bool:
    return any(get_origin(member) is tuple for member in _members(annotation))


def _is_text_type(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    return annotation in _TEXT_TYPES


def _members(annotation: Any) -> list[Any]:
    """The types of a union, or the one type; without what `Annotated` adds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [each for member in get_args(annotation) for each in _members(member)]
    return [annotation]
