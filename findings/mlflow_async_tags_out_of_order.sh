#!/usr/bin/env bash
# MLflow's asynchronous logging does not keep the order of the calls: of a tag that one thread sets ten times with
# `synchronous=False`, an earlier value usually stays, although all ten calls succeed and `flush` or the end of the run
# waits for them. The batches are handed to ten threads (`MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE`), while the class is
# documented as having one. With one thread, or synchronously, the last value stays.
# So a tag such as `stage=done` may read `stage=training` for ever, and nothing was raised or logged.
#
# Exits 0 while that is so, 1 when MLflow behaves otherwise, 2 when the packages cannot be installed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1 pandas==3.1.1 numpy==2.4.6 || exit 2

cat >"$folder/tags.py" <<'PYTHON'
import logging
import sys

import mlflow
from mlflow import MlflowClient

RUNS, CALLS = 10, 10
client = MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db")
errors = []
handler = logging.Handler()
handler.emit = errors.append
logging.getLogger("mlflow.utils.async_logging.async_logging_queue").addHandler(handler)


def wrong(synchronous: bool) -> int:
    """In how many runs the tag is not what was set last."""
    count = 0
    for _ in range(RUNS):
        run = client.create_run("0").info.run_id
        for call in range(CALLS):
            operation = client.set_tag(run, "stage", str(call), synchronous=synchronous)
        if operation is not None:
            operation.wait()  # raises if the last call failed
        client.set_terminated(run)  # waits until all calls are through
        count += client.get_run(run).data.tags["stage"] != str(CALLS - 1)
    return count


def row(how: str, count: int) -> int:
    print(f"{how:40s} last value lost in {count:2d} of {RUNS} runs, errors logged: {len(errors)}", flush=True)
    return count


print(f"mlflow {mlflow.__version__}, Python {sys.version.split()[0]}; {CALLS} times set_tag from one thread")
in_step = row("synchronous", wrong(True))
default = row("synchronous=False", wrong(False))
mlflow.environment_variables.MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE.set(1)
one = row("synchronous=False, THREADPOOL_SIZE=1", wrong(False))
same = in_step == 0 and one == 0 and default > 0 and not errors
print("as found: the order is lost with the default of ten threads" if same else "CHANGED: MLflow behaves otherwise now")
sys.exit(not same)
PYTHON

MLFLOW_DISABLE_TELEMETRY=true "$folder/venv/bin/python" "$folder/tags.py" "$folder" 2>"$folder/log" || {
    status=$?
    tail -n 5 "$folder/log" >&2
    exit "$status"
}
