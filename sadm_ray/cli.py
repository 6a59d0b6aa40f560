"""The command line. It imports heavy things inside its commands, and alone maps errors to exit codes.

0 fine · 1 a bug of ours · 2 usage or settings · 3 data · 4 Ray was lost · 130, 143 interrupted (SIGINT, SIGTERM)
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sadm_ray import __version__
from sadm_ray.config import Settings
from sadm_ray.config.presets import preset_names
from sadm_ray.config.settings_file import dump_settings, load_settings
from sadm_ray.errors import DataError, Stopped, UserError
from sadm_ray.interruption import AGAIN, CODES, catching, end_by_signal, is_interrupted, is_ray_terminated

app = typer.Typer(
    help="Sequence-aware diffusion for longitudinal 3D scans: generate the visits that were never scanned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE|NAME",
        help=f"Settings file, or one that comes with sadm-ray: {', '.join(preset_names())}; none: the phantom.",
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides, such as train.steps=100 data.root=DIR.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sadm-ray {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None: ...


@app.command()
def inspect(
    config: Config = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a picture of every subject; on a cluster, each machine its own ones."),
    ] = None,
) -> None:
    """Look through the study as it is: its content, and everything that is wrong, with its file and the mend."""
    inspection = _step("inspect", config, overrides, pictures=pictures)
    if _print_inspection(inspection, as_json):
        raise DataError("what has to be mended is listed above; without it, all else can be used")


@app.command()
def prepare(config: Config = None, overrides: Overrides = None) -> None:
    """Find the study's scans and turn them into shards."""
    _fail_if(_print_study(_step("prepare", config, overrides)))


@app.command()
def train(
    config: Config = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sizes, memory and time as measured here; do not train.")
    ] = False,
) -> None:
    """Train the model; run again, it goes on where it was."""
    if dry_run:
        _print_estimate(_step("estimate", config, overrides))
    else:
        _print_trained(_step("train", config, overrides))


@app.command()
def tune(config: Config = None, overrides: Overrides = None) -> None:
    """Search the settings of sampling on validation subjects, or with tune.sweep=training those of training."""
    settings = load_settings(config, overrides or ())
    if settings.tune.sweep == "training":
        _print_training_swept(_step_with("tune_training", settings), settings.run_dir / "tuned-training.yaml")
    else:
        _print_swept(_step_with("tune", settings))


@app.command()
def calibrate(config: Config = None, overrides: Overrides = None) -> None:
    """Fit what the model is corrected by, and bounds that hold, on subjects that it was not trained on."""
    _print_calibrated(_step("calibrate", config, overrides))


@app.command()
def generate(
    config: Config = None,
    overrides: Overrides = None,
    missing: Annotated[bool, typer.Option("--missing", help="All slots that were never scanned.")] = False,
    at: Annotated[str | None, typer.Option(metavar="TIMES", help="Times in the study's unit, such as 12,24.")] = None,
    file: Annotated[str | None, typer.Option(metavar="CSV", help="Lines of subject, times, samples, seed.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME=VALUE", help="Of the wanted visit, such as treatment=B; may be repeated."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="DIR", help="A trained model's folder.")] = None,
    study: Annotated[str | None, typer.Option(metavar="DIR", help="Scans to prepare as the model's were.")] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Where the volumes go.")] = None,
) -> None:
    """Generate scans that were never taken as NIfTI; run again, it does what is left.

    Without options: the frames of every task for the test subjects, which `evaluate` scores.
    """
    values = {"file": file, "model": model, "study": study, "out": out}
    options = [
        f"generate.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
    ]
    options += ["generate.missing=true"] * missing + [f"generate.at=[{at}]"] * (at is not None)
    options += [f"generate.given={json.dumps(given, ensure_ascii=False)}"] * bool(given)
    _fail_if(_print_generated(_step("generate", config, [*(overrides or ()), *options])))


@app.command()
def evaluate(config: Config = None, overrides: Overrides = None) -> None:
    """Compare with the truth and with copy-last; write the report."""
    _fail_if(_print_evaluation(_step("evaluate", config, overrides)))


@app.command()
def compare(config: Config = None, overrides: Overrides = None) -> None:
    """Train every kind of model with the same budget and compare them; run again, it goes on where it was.

    The study is prepared first if it was not.
    """
    settings = load_settings(config, overrides or ())
    from sadm_ray import steps
    from sadm_ray.cluster import ray_session
    from sadm_ray.run_lock import alone_in

    with alone_in(settings.run_dir, "run.name"), ray_session(settings):
        failures = not steps.is_prepared(settings) and _print_study(steps.prepare(settings))
        failures |= _print_compared(steps.compare(settings), settings.run_dir / "compare")
    _fail_if(failures)


@app.command()
def run(config: Config = None, overrides: Overrides = None) -> None:
    """All six steps, one after another."""
    settings = load_settings(config, overrides or ())
    from sadm_ray import steps
    from sadm_ray.cluster import ray_session
    from sadm_ray.run_lock import alone_in
    from sadm_ray.tracking import tracking_uri

    with alone_in(settings.run_dir, "run.name"), ray_session(settings):
        failures = _print_study(steps.prepare(settings))
        _print_trained(steps.train(settings))
        _print_swept(steps.tune(settings))
        _print_calibrated(steps.calibrate(settings))
        failures |= _print_generated(steps.generate(settings))
        failures |= _print_evaluation(steps.evaluate(settings))
    typer.echo(f"report   {settings.run_dir / 'report.html'}")
    typer.echo(f"MLflow   {tracking_uri(settings)}")
    _fail_if(failures)


@app.command("settings")
def show_settings(config: Config = None, overrides: Overrides = None) -> None:
    """Print all settings as they would be used."""
    typer.echo(dump_settings(load_settings(config, overrides or ())), nl=False)


def _step(name: str, config: Path | None, overrides: Sequence[str] | None, **options: Any) -> Any:
    return _step_with(name, load_settings(config, overrides or ()), **options)


def _step_with(name: str, settings: Settings, **options: Any) -> Any:
    from sadm_ray import steps  # heavy: a typo in the settings was refused before

    step: Callable[..., Any] = getattr(steps, name)
    return step(settings, **options)


def _print_inspection(inspection: Any, as_json: bool) -> bool:
    from rich.console import Console

    from sadm_ray.data.inspect.inspection_table import render

    if as_json:
        typer.echo(json.dumps(inspection.to_json(), indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(render(inspection), soft_wrap=True)
    return bool(inspection.failed)


def _print_study(study: Any) -> bool:
    counts = ", ".join(f"{split} {len(names)}" for split, names in study.subjects.items())
    frames = f"{study.frames} frames" if study.frames else "all visits"
    typer.echo(f"prepare  {counts} subjects, {frames} of {'×'.join(map(str, study.shape))}")
    shown = study.warnings[:3]
    for warning in shown:
        typer.echo(f"  worth a look: {warning}", err=True)
    if len(study.warnings) > len(shown):
        typer.echo(f"  … and {len(study.warnings) - len(shown)} more; `sadm-ray inspect` shows all", err=True)
    for problem in study.problems:
        typer.echo(f"  left out: {problem}", err=True)
    return bool(study.problems)


def _print_trained(trained: Any) -> None:
    typer.echo(f"train    {trained.facts['parameters'] / 1e6:.1f} M parameters, {trained.folder}")


def _print_estimate(estimate: Any) -> None:
    for line in estimate.lines():
        typer.echo(line)


def _print_swept(swept: Any) -> None:
    best = ", ".join(f"{key} {value}" for key, value in swept.best.model_dump(exclude_defaults=True).items())
    best = best or "the defaults"
    stopped = int(swept.trials["stopped"].sum())
    counts = f"{len(swept.trials)} trials, {stopped} stopped early"
    if swept.failures:
        counts += f", {len(swept.failures)} failed"
    typer.echo(f"tune     best of {counts}, on {len(swept.subjects)} validation subjects: {best}")
    for failure in swept.failures:
        typer.echo(f"  failed: {failure}", err=True)


def _print_training_swept(swept: Any, file: Path) -> None:
    trained, stopped = len(swept.trials), swept.trials["stopped"].sum()
    judged = f"{trained} trainings on {len(swept.subjects)} validation subjects, {stopped} stopped early"
    typer.echo(f"tune     best of {judged}: {file}")
    for failure in swept.failures:
        typer.echo(f"  failed: {failure}", err=True)


def _print_calibrated(fitted: Any) -> None:
    from sadm_ray.model.recalibration import KINDS

    held_out = f"{fitted.folds} folds" if fitted.folds else "the validation subjects"
    typer.echo(f"calibrated on {fitted.subjects} held-out subjects ({held_out})")
    for kind, where in KINDS.items():
        its = getattr(fitted, kind)
        factors = f"change × {its.change:.3g}, motion × {its.motion:.3g}, intensity × {its.intensity:.3g}"
        typer.echo(f"  {where}: {factors}, noise of {its.noise:.3g} of the prior's deviation")
    for task, misses in fitted.misses.items():
        typer.echo(f"  {task}: bounds up to {100 * misses.highest_level:.3g} % by {misses.subjects} subjects")
    for task, structures in fitted.volumes.items():
        counts = ", ".join(f"{name} by {errors.subjects}" for name, errors in structures.items())
        typer.echo(f"  {task}: intervals of volumes of {counts} subjects")


def _print_generated(generated: Any) -> bool:
    before = f" ({generated.done_before} of {generated.subjects} subjects done before)" if generated.done_before else ""
    typer.echo(f"generate {generated.volumes} volumes in {generated.folder}{before}")
    for (subject, task), reason in generated.failures.items():
        typer.echo(f"  failed: {subject}, {task}: {reason}", err=True)
    return bool(generated.failures)


def _fail_if(failures: bool) -> None:
    if failures:
        raise DataError("some subjects failed and are listed above; everything else is done")


def _print_evaluation(evaluation: Any) -> bool:
    from rich.console import Console

    from sadm_ray.evaluate.score_tables import render_table
    from sadm_ray.evaluate.who_is_scored import TITLES, who_is_scored

    console = Console(width=None if sys.stdout.isatty() else 120)
    for each in (evaluation, *evaluation.others):
        if len(each.table):
            console.print(render_table(each.table, TITLES[each.split]))
    for line in who_is_scored(evaluation):
        typer.echo(f"  {line}")
    for problem in evaluation.problems:
        typer.echo(f"  not scored: {problem}", err=True)
    for remark in evaluation.remarks:
        typer.echo(f"  worth a look: {remark}", err=True)
    return bool(evaluation.problems)


def _print_compared(compared: Any, folder: Path) -> bool:
    for table in compared.tables:
        typer.echo(table.markdown)
    typer.echo(f"compare  {len(compared.members)} trainings, tables and report in {folder}")
    for failure in compared.failures:
        typer.echo(f"  failed: {failure}", err=True)
    return bool(compared.failures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code; `sadm_ray.__main__.command` takes the signals first."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    atexit.register(gc.freeze)  # else Python looks through all that PyTorch and MLflow made: seconds at the very end
    try:
        with catching():
            app(args=list(arguments) if arguments is not None else None, prog_name="sadm-ray")
    except BaseException as error:
        if is_interrupted():  # whatever came of it on the way, Typer's own SystemExit for one
            end_by_signal()
        if is_ray_terminated(error):
            end_by_signal(signal.SIGTERM)
        sys.exit(_say(error))


def _say(error: BaseException) -> int | str | None:
    """Print what ended the command, and return its exit code; a bug of ours is raised again."""
    match error:
        case UserError():
            print(f"error: {error}", file=sys.stderr)
            for problem in getattr(error, "problems", ()):
                print(f"  {problem}", file=sys.stderr)
            return error.exit_code
        case Stopped():
            print(error, file=sys.stderr)
            return error.exit_code
        case SystemExit() if error.code != CODES[signal.SIGINT]:
            return error.code
        case SystemExit() | KeyboardInterrupt():  # an interruption that something else than our handler has noticed
            print(f"interrupted; {AGAIN}", file=sys.stderr)
            return CODES[signal.SIGINT]
    raise error
