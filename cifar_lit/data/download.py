"""Fetches an archive once: from the first address that answers, verified, and never half-written."""

import errno
import hashlib
import shutil
import socket
import tarfile
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from tqdm import tqdm

from cifar_lit.errors import UserError
from cifar_lit.identity import sha256_of

# Seconds without a byte after which an address counts as dead.
TIMEOUT = 20.0
# Seconds for a connection: around the world one takes 0.3. It is short so that a network that swallows everything is
# known for what it is after a few seconds.
CONNECT_TIMEOUT = 2.0
# Connections that a name may take: the first of its addresses may be dead, and its look-up slow.
TRIES = 3
# After which a folder that was being unpacked is nobody's.
SECONDS_KEPT = 24 * 60 * 60
CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A tar archive on the net.

    Attributes:
        name: Its file name, as published.
        folder: The folder that it unpacks to.
        sha256: Of the whole file, in hexadecimal.
        urls: Where it can be had, the original first.
    """

    name: str
    folder: str
    sha256: str
    urls: tuple[str, ...]


def fetch_and_unpack(archive: Archive, root: Path) -> Path:
    """Sees to it that ``root / archive.folder`` is there, and returns it.

    What is in ``root`` already is used: the unpacked folder, or the archive. Processes that start together wait for
    the first. A file gets its name only when it is whole and verified.

    Raises:
        UserError: The archive is not there and cannot be downloaded, or is not the published one.
    """
    unpacked = root / archive.folder
    if unpacked.is_dir():
        return unpacked
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{archive.name}.lock"):
            if not unpacked.is_dir():
                _unpack(_fetch(archive, root), archive, root)
    except OSError as error:
        reason = error.strerror or error
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise UserError(
                f"{root} is where no file can be locked ({reason}): name another folder with --data.root, or unpack "
                f"{archive.name} there by hand."
            ) from error
        raise UserError(
            f"{root} cannot be written ({reason}): make room, or name another folder with --data.root."
        ) from error
    return unpacked


def _fetch(archive: Archive, root: Path) -> Path:
    path = root / archive.name
    if path.is_file():
        if sha256_of(path) != archive.sha256:
            raise UserError(f"{path} is damaged or not the published archive: remove it and it is downloaded again.")
        return path
    failures = []
    for url in archive.urls:
        try:
            return _download(url, archive.sha256, path)
        except (OSError, ValueError, HTTPException) as error:
            # What a server says in place of HTTP may end in a line break.
            failures.append(f"{url} ({str(getattr(error, 'reason', None) or error).strip()})")
    raise UserError(
        # What to do comes first: the end of a long line is cut off.
        f"{root} holds neither {archive.folder}/ nor {archive.name}, and no address gave it: put the file there by "
        "hand, name another folder with --data.root, or try configs/quickstart.yaml, which needs no download. "
        f"Tried {'; '.join(failures)}."
    )


def _download(url: str, sha256: str, path: Path) -> Path:
    _connect(url)
    digest = hashlib.sha256()
    partial = path.with_name(f".{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, partial.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(
                total=total, desc=f"Downloading {path.name}", unit="B", unit_scale=True, disable=None
            ) as progress:
                while chunk := response.read(CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
                    progress.update(len(chunk))
                received = file.tell()
        if total is not None and received < total:
            raise ValueError(f"broke off after {received:,} of {total:,} bytes")
        if digest.hexdigest() != sha256:
            raise ValueError("sent another file than the published archive")
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _connect(url: str) -> None:
    """Fails where nobody answers; urllib has one timeout for this and for the wait between two bytes."""
    address = urlsplit(url)
    by_proxy = address.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(address.netloc)
    if address.hostname and not by_proxy:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        failures: list[OSError] = [TimeoutError("timed out")]

        def connect() -> None:
            try:
                socket.create_connection((address.hostname, port), CONNECT_TIMEOUT).close()
                failures.clear()
            except OSError as error:
                failures[:] = [error]

        # In a thread, since the look-up of a name knows no time limit.
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(TRIES * CONNECT_TIMEOUT)
        if failures:
            raise failures[0]


def _unpack(path: Path, archive: Archive, root: Path) -> None:
    for left in root.glob(f".{archive.folder}.*"):
        # Of a process that was killed, and not of another machine, where locks are each machine's own.
        if time.time() - left.stat().st_mtime > SECONDS_KEPT:
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{archive.folder}.", dir=root))
    try:
        with tarfile.open(path) as tar:
            # The data filter refuses links, devices and paths that lead out of the folder.
            tar.extractall(staging, filter="data")
        (staging / archive.folder).replace(root / archive.folder)
    except tarfile.TarError as error:
        raise UserError(f"{path} cannot be unpacked ({error}): remove it and it is downloaded again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
