"""What the values of a label map are called: tables with the columns `index` and `name`, found as BIDS finds them.

A table is called as its label maps are, with `.tsv`, or leaves out some of the entities: `sub-01_dseg.tsv`,
`desc-aseg_dseg.tsv`, `dseg.tsv`. It holds for the label maps in its folder and below it; the nearest one counts, of one
folder that which names the most entities (BIDS 1.11, the inheritance principle).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sadm_ray.data.find.catalog import Problem
from sadm_ray.data.find.study_tables import StudyTable, map_in_threads, read_table
from sadm_ray.errors import DataError
from sadm_ray.storage import IMAGE_SUFFIXES, Entry, Storage

Names = Mapping[int, str]
"""The structure of each value of a label map but 0, the background. Several values may be one structure."""


@dataclass(frozen=True)
class BidsName:
    """The name of a file in BIDS, without its ending: `sub-01_desc-aseg_dseg` has two entities and a suffix."""

    folder: tuple[str, ...]
    entities: Mapping[str, str]
    suffix: str

    @classmethod
    def of(cls, path: str) -> BidsName:
        """That of a path; parts of the name that are no `key-value` are left out."""
        *folder, file = path.split("/")
        *parts, suffix = _stem(file).split("_")
        pairs = (part.partition("-") for part in parts)
        return cls(tuple(folder), {key: value for key, hyphen, value in pairs if hyphen}, suffix)

    def holds_for(self, other: BidsName) -> bool:
        """Whether a table of this name holds for a file of the other."""
        return (
            self.suffix == other.suffix
            and other.folder[: len(self.folder)] == self.folder
            and self.entities.items() <= other.entities.items()
        )


def _stem(file: str) -> str:
    ending = next((each for each in (*reversed(IMAGE_SUFFIXES), ".tsv") if file.endswith(each)), "")
    return file.removesuffix(ending)


@dataclass(frozen=True)
class NameTables:
    """The tables of a folder of label maps, and what is wrong with some of them."""

    tables: Sequence[tuple[BidsName, Names]] = ()
    problems: tuple[Problem, ...] = ()

    @classmethod
    def read(cls, storage: Storage, entries: Iterable[Entry], above: NameTables | None = None) -> NameTables:
        """Read those among the `entries` of a folder; tables of a folder `above` count where none of these holds."""
        found = [entry for entry in entries if entry.path.endswith(".tsv")]
        known: dict[tuple[tuple[int, str], ...], Names] = {}  # most tables of a study are alike
        tables: list[tuple[BidsName, Names]] = list(above.tables) if above else []
        problems: list[Problem] = list(above.problems) if above else []
        for entry, outcome in zip(found, map_in_threads(lambda entry: _read(storage, entry), found), strict=True):
            if isinstance(outcome, Problem):
                problems.append(outcome)
            else:
                names = known.setdefault(tuple(sorted(outcome.items())), outcome)
                tables.append((BidsName.of(entry.path), names))
        return cls(tables, tuple(problems))

    def names_for(self, path: str) -> Names:
        """The names that hold for a label map; empty where there are none."""
        name = BidsName.of(path)
        best: Names = {}
        rank = (-1, -1)
        for table, names in self.tables:  # those of the folder above come first
            own = (len(table.folder), len(table.entities))
            if table.holds_for(name) and own >= rank:
                best, rank = names, own
        return best


def _read(storage: Storage, entry: Entry) -> Names | Problem:
    """The names in a table, without the background; a problem where there is a fault in it."""
    where = storage.where(entry.path)
    try:
        names = _names_in(read_table(storage, entry))
    except DataError as error:
        message = str(error).removeprefix(f"{where}: ")
        return Problem("", where, f"{message}; label maps are used without its names until it is mended")
    names.pop(0, None)
    return names


def _names_in(table: StudyTable) -> dict[int, str]:
    """Raises DataError for a fault."""
    index, name = table.named("index"), table.named("name")
    if index is None or name is None:
        raise DataError(f"needs the columns index and name (BIDS), it has {', '.join(table.columns)}")
    faults: list[Problem] = []
    names = {}
    for number, row in table.rows(faults):
        value, text = row.get(index, ""), row.get(name, "")
        if not _is_whole(value) or not text:
            raise DataError(f"row {number} has {value!r} and {text!r} where a whole number and a name are needed")
        names[int(float(value))] = text
    if faults:
        raise DataError(faults[0].message.partition(";")[0])
    return names


def _is_whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except (ValueError, OverflowError):
        return False
