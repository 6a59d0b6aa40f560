"""The benchmark of a CUDA device, on the CPU and tiny: its figures, and rows where time or memory do not suffice."""

import copy
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import device_timing, gpu
from benchmarks.device_timing import DeviceRun
from benchmarks.gpu_parts import agrees, beside_monai, equality, generation, registration, training
from tests.tiny import settings_for

TINY = ["--device", "cpu", "--shape", "4", "16", "16", "--batches", "1"]
Say = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceRun:
    """One call for each time."""
    for name, value in {"_WARM_UP": 0, "_FEWEST": 1, "_SECONDS": 0.0}.items():
        monkeypatch.setattr(device_timing, name, value)
    return DeviceRun(settings_for(tmp_path), torch.device("cpu"), (1, 2), time.monotonic() + 3600)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Say:
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def values(lines: list[dict[str, Any]]) -> dict[str, float | None]:
    return {line["figure"]: line["value"] for line in lines}


@pytest.mark.parametrize("compiled", [False, True])
def test_training(run: DeviceRun, said: Say, monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    compile_module = torch.nn.Module.compile
    quickly = functools.partialmethod(compile_module, backend="eager")  # traced, but not translated: that takes minutes
    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    sizes = (1,) if compiled else run.batches
    assert training(replace(run, batches=sizes), compiled=compiled)
    figures = values(said())
    how = "compiled" if compiled else "eager"
    for size in sizes:
        name = f"training step, {how}, batch {size}"
        ms, rate = figures[name], figures[f"{name}: samples a second"]
        assert ms is not None
        assert ms > 0
        assert rate == pytest.approx(size / ms * 1e3, rel=1e-3)
        assert (f"{name}: first step, which compiles" in figures) == compiled
        assert 0 < (figures[f"{name}: share of the matrix-product rate"] or 0) < 1
        assert (figures[f"{name}: peak memory"] or 0) > 0
    work = figures.get("floating-point work of a sample, forward and backward", 1.0)
    assert work is not None
    assert work > 0


def test_beside_monai(run: DeviceRun, said: Say) -> None:
    pytest.importorskip("monai")
    assert beside_monai(run)
    figures = values(said())
    ours, theirs = (
        figures[f"{name}, batch 2"]
        for name in ("forward and backward", "MONAI DiffusionModelUNet, forward and backward")
    )
    assert ours is not None
    assert theirs is not None
    ratio = figures["times faster forward and backward than MONAI's network, batch 2"]
    assert ratio == pytest.approx(theirs / ours, rel=2e-3)


def test_without_monai_a_line_says_so(run: DeviceRun, said: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert beside_monai(run)
    (line,) = said()
    assert line["note"] == "left out: MONAI is not installed"


def test_registration_and_generation(run: DeviceRun, said: Say) -> None:
    assert registration(run)
    assert generation(run)
    figures = values(said())
    two, each = figures["registration of 2 pairs of frames"], figures["registration of 2 pairs of frames: a pair"]
    assert two == pytest.approx(2 * (each or 0), rel=1e-3)
    assert {f"a frame at a fast setting, {precision}" for precision in ("float32", "bfloat16")} <= set(figures)


def test_too_little_memory_is_a_row_and_not_the_end(run: DeviceRun, said: Say) -> None:
    def fails() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert run.row("batch 32", fails) is None
    assert run.row("batch 1", lambda: 2.0) == 2.0
    assert [(line["figure"], line["value"], line.get("note")) for line in said()] == [
        ("batch 32", None, "out of memory"),
        ("batch 1", 2.0, None),
    ]


def test_another_failure_is_no_row(run: DeviceRun) -> None:
    def fails() -> float:
        raise RuntimeError("expected all tensors on one device")

    with pytest.raises(RuntimeError, match="one device"):
        run.row("batch 32", fails)


def test_no_row_begins_after_the_end(said: Say, tmp_path: Path) -> None:
    late = DeviceRun(settings_for(tmp_path), torch.device("cpu"), (1,), time.monotonic())
    assert late.row("batch 1", lambda: pytest.fail("it began")) is None
    assert "no time" in said()[0]["note"]


@pytest.mark.parametrize(("difference", "fine"), [(-0.01, True), (0.03, False), (float("nan"), False)])
def test_a_difference_to_the_cpu_is_told(capsys: pytest.CaptureFixture[str], difference: float, fine: bool) -> None:
    assert agrees("loss", torch.tensor([0.0, difference]), "1", 0.02) == fine
    captured = capsys.readouterr()
    assert json.loads(captured.out.replace("NaN", "null"))["reach"] == 0.02
    assert ("benchmarks.gpu: loss: " in captured.err) != fine


def test_a_device_that_computes_otherwise_is_found(run: DeviceRun, said: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    faithful = copy.deepcopy

    def off_by_a_percent(model: torch.nn.Module) -> torch.nn.Module:
        other = faithful(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.01)
        return other

    monkeypatch.setattr("benchmarks.gpu_parts.deepcopy", off_by_a_percent)
    assert not equality(run)
    excess = {line["figure"].removeprefix("device against CPU, "): line["value"] > line["reach"] for line in said()}
    assert excess["loss in float32: relative difference"]
    assert excess["a generated frame: largest difference of an intensity"]
    assert not excess["registration: largest difference of a displacement"]  # it has no weights


def test_it_runs_without_ray_and_mlflow() -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = {[*TINY, '--in-process', '--parts', 'equality', 'eager', 'registration']!r}\n"
        "try:\n    runpy.run_module('benchmarks.gpu', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'ray', 'mlflow', 'pandas', 'nibabel', 'pyarrow'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    against = {line["figure"]: line["value"] for line in lines if line["figure"].startswith("device against CPU")}
    assert len(against) == 4
    assert {value for figure, value in against.items() if "bfloat16" not in figure} == {0.0}  # the CPU with itself


def test_a_part_is_stopped_after_its_share_of_the_time(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", *TINY, "--parts", "registration", "--seconds", "0.2"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout)["note"] == "stopped after 0 s (--seconds)"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "PyTorch sees no CUDA device" in captured.err
