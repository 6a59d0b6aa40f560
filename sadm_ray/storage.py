"""Folders on this machine and behind URLs (s3://, gs://, …), through pyarrow and one interface.

A written file is whole or absent: local files are renamed into place, and an object store shows an object only when
its upload is complete.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
import uuid
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from sadm_ray.config import is_url
from sadm_ray.errors import DataError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".nii", ".nii.gz")

_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_PARTIAL_NAME = re.compile(r"\..+\.[0-9a-f]{8}")
"""The name of a file while it is written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a folder: its path with `/`, its size in bytes and when it was modified (ns; 0 if unknown).

    Dangling links, and folders named like a scan, are entries of size 0: opening them raises OSError.
    """

    path: str
    size: int
    modified: int


def leads_out(path: str) -> bool:
    """Whether a path may leave the folder that it is meant to be relative to: absolute, a URL, or with `..` in it."""
    return is_url(path) or path.startswith(("/", "\\")) or bool(_DRIVE.match(path)) or ".." in re.split(r"[/\\]", path)


@dataclass(frozen=True)
class Storage:
    """A folder, local or at a URL. Paths are relative to it.

    Every method that opens or lists raises DataError for a path that leads out of the folder: names come from files,
    too, which may be damaged or from elsewhere. With `scattered` an absolute path or a URL stands for itself, as in a
    manifest of scans.
    """

    location: str
    scattered: bool = False

    def __post_init__(self) -> None:
        """Make a local folder absolute, since a worker has another current directory."""
        if not is_url(self.location):
            object.__setattr__(self, "location", str(Path(self.location).expanduser().absolute()))

    def require_inside(self, path: object, named_in: str, mend: str) -> None:
        """Refuse a path that was read from the file `named_in` of this folder and leads out of it.

        Raises:
            DataError: it names the file, the path and the mend.
        """
        if not isinstance(path, str) or not path or leads_out(path):
            raise DataError(
                f"{self.where(named_in)}: names {str(path)[:100]!r}, which does not lie in {self.location}; {mend}"
            )

    def where(self, path: str = "") -> str:
        """The full path or URL of a file, for messages and for other libraries."""
        if not path or is_url(path) or path.startswith("/"):
            return path or self.location
        return f"{self.location.rstrip('/')}/{path}"

    @property
    def resolved(self) -> tuple[fs.FileSystem, str]:
        """The folder in the form of pyarrow and Ray: a file system and a path in it."""
        return self._resolve("")

    def entries(self) -> list[Entry]:
        """All files below the folder, in the order of their paths.

        Raises:
            DataError: the folder is missing or cannot be listed.
        """
        if is_url(self.location):
            return sorted(self._remote_entries(), key=lambda entry: entry.path)
        if not Path(self.location).is_dir():
            raise DataError(f"{self.location}: no such folder; set data.root to the study's folder")
        return sorted(_local_entries(self.location), key=lambda entry: entry.path)

    def entry(self, path: str) -> Entry | None:
        """One file; none if it does not exist."""
        system, full = self._resolve(path)
        info = system.get_file_info(full)
        if info.type == fs.FileType.NotFound:
            return None
        return Entry(path, info.size or 0, info.mtime_ns or 0)

    def open(self, path: str) -> Any:
        """A binary stream of the file.

        Raises:
            OSError: it is missing, no file, or not readable.
        """
        system, full = self._resolve(path)
        return system.open_input_stream(full, compression=None, buffer_size=1 << 18)  # a .gz stays one

    def open_random(self, path: str) -> Any:
        """The same with random access, which Parquet needs."""
        system, full = self._resolve(path)
        return system.open_input_file(full)

    def read(self, path: str) -> bytes:
        """The whole file. Raises OSError as `open` does."""
        with self.open(path) as stream:
            return bytes(stream.read())

    def write(self, path: str, content: bytes | pa.Buffer, *, durable: bool = True) -> None:
        """Write a file, replacing an existing one; it appears whole or not at all.

        Args:
            durable: wait until the disk has it. Without, it may be lost or empty if the power fails soon after.
        """
        system, full = self._resolve(path)
        if is_url(full) or not isinstance(system, fs.LocalFileSystem):
            with system.open_output_stream(full, compression=None) as stream:
                stream.write(content)
            return
        file = Path(full)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def delete(self, path: str) -> None:
        """Remove a file if it exists.

        Raises:
            DataError: it lies behind a link that leads out of the folder.
        """
        system, full = self._resolve(path)
        if isinstance(system, fs.LocalFileSystem):
            base, folder = (os.path.realpath(each) for each in (self._resolve("")[1], os.path.dirname(full)))  # noqa: PTH120
            if os.path.commonpath([base, folder]) != base:
                raise DataError(f"{full}: lies behind a link to {folder}; what is out of {base} is not removed")
        _delete_file(system, full)

    def files(self, folder: str) -> list[str]:
        """The paths of the files directly in a folder, leftovers of interrupted writes included; none: no folder."""
        system, base = self._resolve(folder)
        infos = system.get_file_info(fs.FileSelector(base, allow_not_found=True))
        return [f"{folder}/{info.base_name}" for info in infos if info.type == fs.FileType.File]

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders directly in a folder; none: no folder."""
        system, base = self._resolve(folder)
        infos = system.get_file_info(fs.FileSelector(base, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder below this one with its content, if it exists; of a link to a folder the link alone."""
        if not folder.strip("/"):
            raise ValueError("the folder itself is not removed")
        system, full = self._resolve(folder)
        if isinstance(system, fs.LocalFileSystem) and Path(full).is_symlink():
            Path(full).unlink()
        elif system.get_file_info(full).type == fs.FileType.Directory:
            system.delete_dir(full)

    def remove_empty(self, folder: str) -> None:
        """Remove a folder, and then those above it up to this one, as long as they are empty."""
        if is_url(self.location) or leads_out(folder):
            return  # object stores have no empty folders
        for each in (folder, *(str(parent) for parent in PurePosixPath(folder).parents)):
            if each in ("", "."):
                return
            try:
                Path(self.location, each).rmdir()
            except OSError:  # not empty, a link, or gone
                return

    def remove_partials(self) -> None:
        """Remove leftovers of interrupted writes anywhere below the folder; nothing may be writing there meanwhile."""
        if is_url(self.location):
            return  # an object appears only when it is complete
        for folder, _, files in os.walk(self.location):
            for name in files:
                if _PARTIAL_NAME.fullmatch(name):
                    Path(folder, name).unlink(missing_ok=True)

    def keep_only(self, folder: str, kept: Container[str]) -> None:
        """Remove every other file of a folder."""
        for file in self.files(folder):
            if file not in kept:
                _delete_file(*self._resolve(file))  # listed here, also where the folder is a link to another disk

    def _resolve(self, path: str) -> tuple[fs.FileSystem, str]:
        if leads_out(path) and not (self.scattered and (is_url(path) or path.startswith("/"))):
            raise DataError(f"{self.location}: {path[:100]!r} does not lie in this folder")
        return _filesystem(self.where(path))

    def _remote_entries(self) -> Iterator[Entry]:
        system, base = self._resolve("")
        try:
            infos = system.get_file_info(fs.FileSelector(base, recursive=True))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{self.location}: cannot be listed ({reason}); check the URL and the credentials"
            ) from None
        for info in infos:
            if info.type == fs.FileType.File:
                yield Entry(info.path.removeprefix(base).lstrip("/"), info.size or 0, info.mtime_ns or 0)


def _delete_file(system: fs.FileSystem, full: str) -> None:
    if system.get_file_info(full).type != fs.FileType.NotFound:
        system.delete_file(full)


def _local_entries(root: str) -> Iterator[Entry]:
    """Links are followed, which DataLad and other annexes need, but no folder is entered twice."""
    seen = set()
    pending = [("", root)]
    while pending:
        below, folder = pending.pop()
        try:
            here = os.stat(folder)  # noqa: PTH116  (strings: paths as objects would take most of the time)
            if (here.st_dev, here.st_ino) in seen:
                continue
            seen.add((here.st_dev, here.st_ino))
            found = list(os.scandir(folder))
        except OSError as error:
            log.warning("%s: cannot be listed (%s); what is in it is not seen", folder, error.strerror)
            continue
        for entry in found:
            if entry.name.startswith("."):
                continue
            path = f"{below}{entry.name}"
            try:
                info = entry.stat()
            except OSError:
                yield Entry(path, 0, 0)
                continue
            if stat.S_ISDIR(info.st_mode) and not entry.name.endswith(IMAGE_SUFFIXES):
                pending.append((f"{path}/", entry.path))
            else:
                yield Entry(path, info.st_size if stat.S_ISREG(info.st_mode) else 0, info.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _filesystem_of_host(scheme_and_host: str) -> tuple[fs.FileSystem, str]:
    """The file system of a scheme and host, made once a process: pyarrow's, else fsspec's."""
    try:
        return fs.FileSystem.from_uri(scheme_and_host)
    except pa.ArrowInvalid:
        import fsspec

        try:
            system, base = fsspec.core.url_to_fs(scheme_and_host)
        except (ValueError, ImportError) as error:
            raise DataError(f"{scheme_and_host}: no way to open this kind of URL ({error})") from None
        return fs.PyFileSystem(fs.FSSpecHandler(system)), base


def _filesystem(location: str) -> tuple[fs.FileSystem, str]:
    location = location.removeprefix("file://")
    if not is_url(location):
        return _LOCAL, location
    scheme, _, rest = location.partition("://")
    host, slash, path = rest.partition("/")
    system, base = _filesystem_of_host(f"{scheme}://{host}")
    return system, f"{base.rstrip('/')}{slash}{path}".rstrip("/")


_LOCAL = fs.LocalFileSystem()
