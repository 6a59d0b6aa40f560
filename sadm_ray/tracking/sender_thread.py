"""The thread that sends what waits in the outbox."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from sadm_ray.tracking.mlflow_client import first_line, shown
from sadm_ray.tracking.mlflow_store import MlflowStore, call_size
from sadm_ray.tracking.outbox import Outbox, Waiting

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
PATIENCE = 10.0
"""How long the end of a step waits for a store that is away, in seconds."""
TRIES_BEFORE_WARNING = 3
UPLOADS = ("artifact", "content", "model")


class Sender:
    """Sends records in order, for as long as it takes.

    What is refused for good is dropped. What fails although MLflow answers (the place of its artifacts is away, say) is
    tried again later, and does not hold up the others.
    """

    def __init__(self, outbox: Outbox, store: MlflowStore, uri: str) -> None:
        self._outbox, self._store, self._uri = outbox, store, shown(uri)
        self._state: Literal["well", "partly", "away"] = "well"
        self._warned_away = self._closing = self._long_call = False
        self._warned: set[str] = set()
        self._tries: dict[Waiting, int] = {}
        self._progress = time.monotonic()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """Stop, after the call that is under way."""
        self._closing = True
        self._hurry.set()
        with self._outbox.changed:
            self._outbox.changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def away(self) -> bool:
        """Whether MLflow could not be reached at the last try."""
        return self._state == "away"

    def flush(self, at_most: float = math.inf) -> int:
        """Wait until all is sent, or until MLflow is away and nothing was heard from it for some seconds.

        An upload that is under way is waited for, and so is the making of a database; MLflow's own client gives up by
        itself.

        Args:
            at_most: seconds to wait in any case.

        Returns:
            how many records still wait.
        """
        self._hurry.set()
        start = time.monotonic()
        with self._outbox.changed:
            while len(self._outbox):
                idle = time.monotonic() - max(start, self._progress, self._store.heard_at)
                if idle > self._patience() or time.monotonic() - start > at_most:
                    break
                self._outbox.changed.wait(0.1)
            self._outbox.tidy()
            return len(self._outbox)

    def _patience(self) -> float:
        match self._state:
            case "partly":  # one more try of the few that fail is enough
                return PATIENCE / 5
            case "well" if self._long_call:
                return math.inf
            case _:  # also in the first call to a server that neither answers nor refuses
                return PATIENCE

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing:
            with self._outbox.changed:
                while not len(self._outbox) and not self._closing:
                    self._outbox.changed.wait()
            self._hurry.clear()
            try:
                self._send_all()
            except Exception as error:  # a bug of ours must not end the thread, or nothing would ever be sent
                self._state = "partly"
                self._warn_once(f"could not be sent everything ({first_line(error)}); it is tried again")
            hurried = self._state == "well" or self._hurry.wait(pause)
            pause = FIRST_PAUSE if hurried else min(2 * pause, LONGEST_PAUSE)

    def _send_all(self) -> None:
        """Try each record once."""
        state: Literal["well", "partly"] = "well"
        for group in _groups(self._outbox.waiting()):
            if self._closing:
                return
            self._long_call = not self._uri.startswith("http") or group[0].record.kind in UPLOADS
            try:
                refused = self._store.send([each.record for each in group], group[0].content)
            except Exception as error:  # whatever the store's driver raises
                self._state = "away"
                if not self._store.answers():
                    self._warn_away(error)
                    return
                self._state = state = "partly"
                self._warn_failing(group, error)
                continue
            self._progress = time.monotonic()
            self._outbox.done(group)
            for each in group:
                self._tries.pop(each, None)
            if refused:
                names = ", ".join(refusal.what for refusal in refused[:5]) + (" …" if len(refused) > 5 else "")
                reason = first_line(refused[0].reason)
                self._warn_once(f"refuses {names} of {group[0].record.key} ({reason}); this is left out")
        self._state = state
        if self._warned_away:
            self._warned_away = False
            log.info("MLflow at %s answers again; what was kept has been sent", self._uri)

    def _warn_away(self, error: Exception) -> None:
        if not self._warned_away:
            self._warned_away = True
            log.warning(
                "MLflow at %s cannot be reached (%s); what is recorded is kept in %s and sent when it answers",
                self._uri,
                shown(first_line(error)),
                self._outbox.folder,
            )

    def _warn_failing(self, group: Sequence[Waiting], error: Exception) -> None:
        """Not at once: a server that is just coming back fails one call and answers the next."""
        for each in group:
            self._tries[each] = self._tries.get(each, 0) + 1
        if self._tries[group[0]] == TRIES_BEFORE_WARNING:
            first = group[0].record
            self._warn_once(
                f"does not take {first.kind} of {first.key} ({first_line(error)}); it is kept and tried again"
            )

    def _warn_once(self, what: str) -> None:
        """Each message once: what is wrong with one record of a training is wrong with thousands."""
        if what not in self._warned:
            self._warned.add(what)
            log.warning("MLflow at %s %s", self._uri, " ".join(what.split()))


def _groups(waiting: list[Waiting]) -> Iterator[list[Waiting]]:
    """The records, in groups that go into one call each."""
    start = 0
    while start < len(waiting):
        size = call_size([each.record for each in waiting[start : start + 1000]])
        yield waiting[start : start + size]
        start += size
