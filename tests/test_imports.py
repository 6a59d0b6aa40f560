"""Imports point one way, and the command line starts without the heavy packages."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    {"errors", "interruption"},
    {"config"},
    {"private_ray", "ray_watch"},
    {"cluster", "run_lock", "storage"},
    {"progress", "tracking"},
    {"actor_pool"},
    {"data"},
    {"diffusion"},
    {"model"},
    {"generate"},
    {"evaluate"},
    {"report"},
    {"train"},
    {"calibrate"},
    {"tune"},
    {"compare"},
    {"steps"},
    {"cli"},
    {"__main__"},
    {"pipelines"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
NO_RAY = {"diffusion", "model"}
"""What does mathematics is plain PyTorch."""


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "pipelines" else (parts[1] if len(parts) > 1 else "")


def imports(source: str) -> set[str]:
    """Every module that the text imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def upward(module: str, source: str) -> list[str]:
    """The imports of `module` that point up, or sideways into another room."""
    here = room_of(module)
    return [
        f"{module} imports {target}"
        for target in sorted(imports(source))
        if target.startswith("sadm_ray.") and (there := room_of(target)) in LEVEL
        if there != here and LEVEL[there] >= LEVEL[here]
    ]


def edges(named: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports; a package stands for its `__init__`, unless only a module of it is wanted."""
    known = {name.removesuffix(".__init__"): name for name in named}
    found: dict[str, set[str]] = {name: set() for name in named}
    for name, text in named.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found[name] |= {known[alias.name] for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom):
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
                modules_of = (each if each in known else node.module for each in wanted)
                found[name] |= {known[module] for module in modules_of if module in known}
    return found


def circle(named: dict[str, str]) -> list[str]:
    """The modules of a circle in the imports, also within a room and within functions; empty if there is none."""
    try:
        list(graphlib.TopologicalSorter(edges(named)).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def modules() -> dict[str, str]:
    files = [*ROOT.glob("sadm_ray/**/*.py"), *ROOT.glob("pipelines/*.py")]
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text() for file in files}
    return {name: text for name, text in named.items() if room_of(name) not in ("", "__init__")}


def test_every_room_has_its_place() -> None:
    assert {room_of(name) for name in modules()} == set(LEVEL)


def test_imports_point_one_way() -> None:
    assert [arrow for name, text in modules().items() for arrow in upward(name, text)] == []


def test_the_walk_sees_an_arrow_that_points_up() -> None:
    assert upward(
        "sadm_ray.data.shards.prepared_study", "def f():\n    from sadm_ray.model.pretrained import load_model"
    )
    assert upward("sadm_ray.train.worker_loop", "from sadm_ray import tune")
    assert upward("sadm_ray.tracking.step_runs", "from sadm_ray import progress")
    assert not upward("sadm_ray.train.worker_loop", "from sadm_ray.model import sadm")


def test_no_circle_in_the_imports() -> None:
    assert circle(modules()) == []


def test_the_walk_sees_a_circle_within_a_room() -> None:
    one = {
        "sadm_ray.tracking.worker_logging": "from sadm_ray.tracking.tracked_run import TrackedRun",
        "sadm_ray.tracking.tracked_run": "def f():\n    from sadm_ray.tracking import worker_logging",
    }
    assert set(circle(one)) == set(one)


def test_mathematics_knows_nothing_of_ray() -> None:
    for name, text in modules().items():
        if room_of(name) in NO_RAY or name in ("sadm_ray.train.train_step", "sadm_ray.data.load.target_sampling"):
            assert not any(target.split(".")[0] in ("ray", "mlflow") for target in imports(text)), name


@pytest.mark.parametrize("arguments", [["--help"], ["settings"], ["train", "train.stpes=1"]])
def test_the_command_line_is_light(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom sadm_ray.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'ray', 'torch', 'mlflow', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sadm_ray.steps", {"torch", "ray", "mlflow", "pandas", "matplotlib", "optuna"}),
        ("sadm_ray.train.training_actor", {"torch", "ray.data", "ray.train", "mlflow", "pandas"}),
        ("sadm_ray.train.trainer", {"torch.distributed.tensor", "scipy.ndimage", "ray.tune", "mlflow", "matplotlib"}),
        ("sadm_ray.generate.generation_job", {"torch.distributed.tensor", "ray.train", "mlflow", "matplotlib"}),
    ],
)
def test_a_step_imports_what_it_needs(module: str, heavy: set[str]) -> None:
    """Each process of a run pays for its imports, in seconds of a CPU."""
    code = f"import sys, {module}\nfound = {heavy!r} & set(sys.modules)\nassert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
