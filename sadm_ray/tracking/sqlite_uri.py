"""The URI by which MLflow opens a sqlite file, and the file that a URI stands for.

SQLAlchemy ends the path of a URI at `?` and, from 2.1 on, reads `%20` in it as a space. MLflow makes the folder of a
`sqlite:///` URI as it is written: for a quoted path it would leave another, empty folder. With the driver named
(`sqlite+pysqlite:///`) it makes none.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from sadm_ray.errors import ConfigError

_SPECIAL = "%?"


def sqlite_uri(file: Path) -> str:
    """The URI of an absolute path: as it stands where that is read back, else quoted.

    Raises:
        ConfigError: the SQLAlchemy that is installed has no URI for it, in one line with the character.
    """
    plain = f"sqlite:///{file}"
    found = [character for character in str(file) if character in _SPECIAL]
    if not found:
        return plain
    for uri in (plain, f"sqlite+pysqlite:///{quote(str(file))}"):
        if sqlite_file(uri) == str(file):
            return uri
    raise ConfigError(
        f"run.dir: {file.parent} holds '{found[0]}', with which SQLAlchemy opens no sqlite file; update SQLAlchemy to "
        "2.1, take another folder, or give MLflow a place by tracking.uri"
    )


def sqlite_file(uri: str) -> str | None:
    """The file that a URI stands for; none: it is no sqlite file, or one by sqlite's own URIs (`uri=true`)."""
    if not is_sqlite(uri):
        return None
    if not any(character in uri for character in _SPECIAL):
        return uri.partition(":///")[2] or None
    from sqlalchemy.engine import make_url  # comes with MLflow, whose import it is most of

    url = make_url(uri)
    return None if url.query.get("uri") else url.database


def is_sqlite(uri: str) -> bool:
    """Whether MLflow's store is a sqlite file, rather than a server or another database."""
    return uri.startswith(("sqlite:", "sqlite+"))
