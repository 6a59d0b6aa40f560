"""What `import sadm_ray` gives: everything it names, and nothing heavy before it is used."""

import subprocess
import sys

import pytest

import sadm_ray

HEAVY = "{'ray', 'torch', 'mlflow', 'numpy', 'pandas', 'matplotlib', 'pyarrow', 'pydantic'}"


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_and_listing_it_imports_nothing_heavy() -> None:
    run(
        "import sys, sadm_ray\n"
        "assert set(sadm_ray.__all__) <= set(dir(sadm_ray))\n"
        "assert not hasattr(sadm_ray, 'no_such_name')\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_settings_need_nothing_heavy_but_pydantic() -> None:
    run(
        "import sys\nfrom sadm_ray import SamplingSettings, Settings, load_settings\n"
        "assert isinstance(load_settings('phantom').sampling, SamplingSettings)\n"
        f"heavy = {HEAVY} & set(sys.modules) - {{'pydantic'}}\n"
        "assert not heavy, heavy"
    )


@pytest.mark.parametrize("name", sadm_ray.__all__)
def test_every_name_is_what_its_module_has(name: str) -> None:
    value = getattr(sadm_ray, name)
    assert value is getattr(sadm_ray, name)
    assert getattr(value, "__name__").rpartition(".")[2] == name  # noqa: B009  (of a function, a class, a module)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sadm_ray' has no attribute 'load_modle'"):
        sadm_ray.load_modle  # type: ignore[attr-defined]  # noqa: B018
