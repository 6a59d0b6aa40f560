"""Who taught and tuned a model: `seen_subjects.json` beside its weights, so that nobody of them passes as a test."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sadm_ray.data.shards.fingerprints import has_scans
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

log = logging.getLogger(__name__)

SEEN = "seen_subjects.json"

SeenAs = Literal["train", "val", "test", "unknown"]
"""What a subject is to a model: it was trained on it; something was chosen on it (weights, when to stop, settings);
neither; or that is not recorded."""

Fingerprints = frozenset[str]
"""By which one person is recognised (`sadm_ray.data.shards.fingerprints`)."""


@dataclass(frozen=True)
class SeenSubjects:
    """The fingerprints of those that a model was trained on (`train`) and that something was chosen on (`val`).

    No name of a subject is in it, so that a model can be given away. `counts` are how many people these are, by the
    same keys. `complete` is false where someone may be missing: an earlier version trained the model.
    """

    train: Fingerprints = frozenset()
    val: Fingerprints = frozenset()
    counts: tuple[int, int] = (0, 0)
    complete: bool = True

    @classmethod
    def of(
        cls, train: Iterable[Fingerprints], val: Iterable[Fingerprints], before: SeenSubjects | None = None
    ) -> SeenSubjects:
        """From the fingerprints of each subject, and those whom the model that it started from had seen `before`."""
        train, val, before = list(train), list(val), before or cls()
        known = all(has_scans(each) for each in [*train, *val]) and before.complete
        counts = (
            before.counts[0] + sum(not each & before.train for each in train),
            before.counts[1] + sum(not each & before.val for each in val),
        )
        return cls(before.train.union(*train), before.val.union(*val), counts, known)

    def __or__(self, other: SeenSubjects) -> SeenSubjects:
        """Those that either has seen. The counts are of people whom both may have seen: the larger ones."""
        counts = max(self.counts[0], other.counts[0]), max(self.counts[1], other.counts[1])
        complete = self.complete and other.complete
        return SeenSubjects(self.train | other.train, self.val | other.val, counts, complete)

    def seen_as(self, subject: Fingerprints) -> SeenAs:
        """What the model has seen this subject as."""
        if subject & self.train:
            return "train"
        if subject & self.val:
            return "val"
        return "test" if self.complete and has_scans(subject) else "unknown"

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "subjects": {"train": self.counts[0], "val": self.counts[1]},
            "train": sorted(self.train),
            "val": sorted(self.val),
            "complete": self.complete,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> SeenSubjects:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        train, val = ([str(each) for each in tree[key]] for key in ("train", "val"))
        counts = int(tree["subjects"]["train"]), int(tree["subjects"]["val"])
        return cls(frozenset(train), frozenset(val), counts, bool(tree["complete"]))

    def write(self, folder: Storage, weights: Sequence[str] = ()) -> None:
        """Write the file into a folder.

        Args:
            weights: the SHA-256 of the files of weights that these subjects taught.
        """
        tree = self.to_json() | ({"weights": list(weights)} if weights else {})
        folder.write(SEEN, (json.dumps(tree, indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Storage, weights: str | None = None) -> SeenSubjects:
        """Read the file of a folder; where there is none, or it is of other weights, nobody is known.

        Args:
            weights: the SHA-256 of those that are asked about.

        Raises:
            DataError: it is damaged.
        """
        try:
            tree = json.loads(folder.read(SEEN))
            if weights is not None and weights not in tree["weights"]:
                log.warning(
                    "%s: is not of the weights that lie beside it, so that nobody counts as a test subject; copy a "
                    "model's whole folder, or train again",
                    folder.where(SEEN),
                )
                return NOT_RECORDED
            return cls.from_json(tree)
        except FileNotFoundError:
            return NOT_RECORDED
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder.where(SEEN)}: cannot be read ({type(error).__name__}); train the model again, or remove the "
                "file: then nobody counts as a test subject"
            ) from None


NOBODY = SeenSubjects()
NOT_RECORDED = SeenSubjects(complete=False)
"""Of a model that an earlier version trained."""
