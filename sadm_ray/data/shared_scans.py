"""Scans that two subjects of a study share: a file copied under another name, linked, or saved anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sadm_ray.data.find.catalog import Problem


def shared_scans(subjects: Iterable[tuple[str, Iterable[str]]], place: str) -> Iterator[Problem]:
    """A warning for each subject that shares a scan with an earlier one.

    Args:
        subjects: their names, and a digest of each of their scans.
        place: the study, for the messages.
    """
    owner: dict[str, str] = {}
    for subject, digests in subjects:
        others = {owner[digest] for digest in digests if owner.setdefault(digest, subject) != subject}
        for other in sorted(others):
            message = (
                f"has a scan of {other}, voxel for voxel: where a model saw one of them, the other is no test subject; "
                "remove the scan that is not theirs"
            )
            yield Problem(subject, place, message, fatal=False)
