import contextlib
import errno
import hashlib
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from forks import run_on_ranks

from cifar_lit.console import one_line
from cifar_lit.data import download
from cifar_lit.data.cifar import CIFAR10DataModule
from cifar_lit.data.download import Archive, fetch_and_unpack
from cifar_lit.errors import UserError

FOLDER, NAME = "cifar-10-batches-py", "cifar-10-python.tar.gz"
FILES = {"test_batch": b"the last batch", "data_batch_1": bytes(range(256)) * 2000}


def packed(files: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    """A .tar.gz of files, and of symbolic links, by name."""
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, data in files.items():
            file = tarfile.TarInfo(name)
            file.size = len(data)
            tar.addfile(file, BytesIO(data))
    return content.getvalue()


PUBLISHED = packed({f"{FOLDER}/{name}": data for name, data in FILES.items()})


class Server(ThreadingHTTPServer):
    """Answers on loopback, each path in its own way."""

    # All of the processes that start together must find a place in the queue.
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.over = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.strip("/")
        self.server.requests.append(path)
        with contextlib.suppress(OSError):
            getattr(self, path)()

    def send(self, content: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def good(self) -> None:
        self.send(PUBLISHED)

    def slow(self) -> None:
        self.server.over.wait(0.5)
        self.send(PUBLISHED)

    def nameless_length(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + PUBLISHED)

    def missing(self) -> None:
        self.send_error(404)

    def broken(self) -> None:
        self.send_error(500)

    def silent(self) -> None:
        self.server.over.wait(30)

    def stalls(self) -> None:
        self.send(PUBLISHED[:500], len(PUBLISHED))
        self.server.over.wait(30)

    def cut_short(self) -> None:
        self.send(PUBLISHED[:500], len(PUBLISHED))

    def cut_short_in_chunks(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFF\r\ntoo little")

    def other_file(self) -> None:
        self.send(packed({f"{FOLDER}/test_batch": b"forged"}))

    def page(self) -> None:
        self.send(b"<html>Please log in to this network</html>")

    def no_http(self) -> None:
        self.wfile.write(b"220 smtp.example.org ready\r\n")

    def odd_length(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n" + PUBLISHED)


DEAD = [
    "missing", "broken", "silent", "stalls", "cut_short", "cut_short_in_chunks", "other_file", "page", "no_http",
    "refused",
]  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "TIMEOUT", 0.6)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def archive(*urls: str, content: bytes = PUBLISHED) -> Archive:
    return Archive(NAME, FOLDER, hashlib.sha256(content).hexdigest(), urls)


def address(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{closed_port()}/refused" if path == "refused" else server.url(path)


def left_in(root: Path) -> set[str]:
    """What is in a folder but for the lock, which may stay."""
    return {path.name for path in root.iterdir()} - {f".{NAME}.lock"}


def assert_unpacked(root: Path) -> None:
    assert {path.name: path.read_bytes() for path in (root / FOLDER).iterdir()} == FILES


def error_of(archive: Archive, root: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch_and_unpack(archive, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", ["good", "nameless_length", "slow"])
def test_an_archive_is_downloaded_and_unpacked(
    server: Server, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 5)
    root = tmp_path / "new" / "data"
    assert fetch_and_unpack(archive(server.url(path)), root) == root / FOLDER
    assert_unpacked(root)
    assert (root / NAME).read_bytes() == PUBLISHED
    assert left_in(root) == {FOLDER, NAME}


def test_a_download_in_pieces_is_put_together(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CHUNK", 100)
    fetch_and_unpack(archive(server.url("good")), tmp_path)
    assert_unpacked(tmp_path)


def test_what_is_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    wanted = archive(server.url("good"))
    fetch_and_unpack(wanted, tmp_path)
    fetch_and_unpack(wanted, tmp_path)
    assert server.requests == ["good"]


def test_an_archive_that_is_there_is_unpacked(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(PUBLISHED)
    fetch_and_unpack(archive(server.url("good")), tmp_path)
    assert_unpacked(tmp_path)
    assert server.requests == []


def test_a_folder_that_is_there_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    assert fetch_and_unpack(archive(server.url("good")), tmp_path) == tmp_path / FOLDER
    assert server.requests == []
    assert {path.name for path in tmp_path.iterdir()} == {FOLDER}


def test_the_data_module_downloads_its_archive(
    server: Server, cifar10_root: Path, tmp_path: Path, pack: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = pack(cifar10_root / FOLDER, tmp_path / "served" / NAME)
    monkeypatch.setattr(Handler, "good", lambda self: self.send((tmp_path / "served" / NAME).read_bytes()))
    monkeypatch.setattr(CIFAR10DataModule, "ARCHIVE", replace(served, urls=(server.url("good"),)))
    data = CIFAR10DataModule(root=str(tmp_path / "data"), val_size=10)
    data.prepare_data()
    data.setup()
    assert data.train_images is not None
    assert len(data.train_images) == 90
    CIFAR10DataModule(root=str(tmp_path / "data")).prepare_data()
    assert server.requests == ["good"]


@pytest.mark.parametrize("path", DEAD)
def test_behind_a_dead_address_the_next_one_is_asked(server: Server, tmp_path: Path, path: str) -> None:
    fetch_and_unpack(archive(address(server, path), server.url("good")), tmp_path)
    assert_unpacked(tmp_path)
    assert left_in(tmp_path) == {FOLDER, NAME}
    assert server.requests == [path, "good"][path == "refused" :]


def test_a_length_that_is_no_number_is_no_traceback(server: Server, tmp_path: Path) -> None:
    fetch_and_unpack(archive(server.url("odd_length"), server.url("good")), tmp_path)
    assert_unpacked(tmp_path)


def test_the_original_address_comes_first(server: Server, tmp_path: Path) -> None:
    fetch_and_unpack(archive(server.url("good"), server.url("slow")), tmp_path)
    assert server.requests == ["good"]


@pytest.mark.parametrize("path", DEAD)
def test_nothing_of_a_failed_download_stays(server: Server, tmp_path: Path, path: str) -> None:
    error_of(archive(address(server, path)), tmp_path)
    assert left_in(tmp_path) == set()


def test_without_any_address_the_error_says_what_to_do(server: Server, tmp_path: Path) -> None:
    urls = [address(server, path) for path in ("refused", "missing", "silent", "other_file", "cut_short")]
    wanted = archive(*urls)
    message = error_of(wanted, tmp_path)
    assert str(tmp_path) in message
    reasons = ("refused", "Not Found", "timed out", "another file", f"broke off after 500 of {len(PUBLISHED):,} bytes")
    for url, reason in zip(urls, reasons, strict=True):
        assert url in message
        assert reason in message.partition(url)[2]
    # The command line cuts a long line off: what to do must stand before that.
    shown = one_line(UserError(message))
    for advice in (NAME, "by hand", "--data.root", "configs/quickstart.yaml"):
        assert advice in shown


def test_a_download_works_after_a_failed_one(server: Server, tmp_path: Path) -> None:
    error_of(archive(server.url("stalls")), tmp_path)
    fetch_and_unpack(archive(server.url("good")), tmp_path)
    assert_unpacked(tmp_path)


def test_what_a_killed_process_left_is_no_hindrance(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.part").write_bytes(b"half of " * 100_000)
    (tmp_path / f".{NAME}.lock").touch()
    fetch_and_unpack(archive(server.url("good")), tmp_path)
    assert_unpacked(tmp_path)
    assert left_in(tmp_path) == {FOLDER, NAME}


@pytest.mark.parametrize(
    "content",
    [PUBLISHED[:-5], PUBLISHED[:100], b"", b"text", packed({f"{FOLDER}/x": b"forged"})],
    ids=["its end is missing", "nearly all is missing", "empty", "text", "forged"],
)
def test_a_damaged_archive_is_an_error_and_is_left_alone(server: Server, tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    message = error_of(archive(server.url("good")), tmp_path)
    assert str(tmp_path / NAME) in message
    assert "remove it" in message
    # It is the user's file.
    assert (tmp_path / NAME).read_bytes() == content
    assert left_in(tmp_path) == {NAME}
    assert server.requests == []


PROGRAM = """
import os, sys, time
from pathlib import Path
from cifar_lit.data.download import Archive, fetch_and_unpack
count, root, *names, url = sys.argv[1:]
Path(f"ready-{os.getpid()}").touch()
while len(list(Path.cwd().glob("ready-*"))) < int(count):
    time.sleep(0.001)
unpacked = fetch_and_unpack(Archive(*names, (url,)), Path(root))
print(*sorted(f"{path.name}:{path.stat().st_size}" for path in unpacked.iterdir()))
"""


def test_processes_that_start_together_download_once(server: Server, tmp_path: Path) -> None:
    wanted, root = archive(server.url("slow")), tmp_path / "data"
    arguments = [str(root), wanted.name, wanted.folder, wanted.sha256, wanted.urls[0]]
    said = run_on_ranks(PROGRAM, 4, tmp_path, "4", *arguments)
    assert said.split() == sorted(f"{name}:{len(data)}" for name, data in FILES.items()) * 4
    assert server.requests == ["slow"]
    assert left_in(root) == {FOLDER, NAME}


def evil_archives(outside: Path) -> dict[str, bytes]:
    files = {f"{FOLDER}/test_batch": b"fine"}
    return {
        "above": packed({**files, "../evil": b"x"}),
        "above, from within": packed({**files, f"{FOLDER}/../../evil": b"x"}),
        "a link that leads out": packed({**files, f"{FOLDER}/link/evil": b"x"}, links={f"{FOLDER}/link": str(outside)}),
        "a link that climbs out": packed({**files, f"{FOLDER}/link/evil": b"x"}, links={f"{FOLDER}/link": "../.."}),
        "the folder is a link": packed({f"{FOLDER}/evil": b"x"}, links={FOLDER: str(outside)}),
    }


@pytest.mark.parametrize("kind", list(evil_archives(Path())))
def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path, kind: str) -> None:
    root, outside = tmp_path / "deep" / "root", tmp_path / "outside"
    root.mkdir(parents=True)
    outside.mkdir()
    content = evil_archives(outside)[kind]
    (root / NAME).write_bytes(content)
    message = error_of(archive(content=content), root)
    assert f"{root / NAME} cannot be unpacked" in message
    assert left_in(root) == {NAME}
    assert [path for path in tmp_path.rglob("evil*") if path.name == "evil"] == []


def test_an_absolute_path_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    content = packed({f"{FOLDER}/test_batch": b"fine", str(evil): b"x"})
    root = tmp_path / "root"
    root.mkdir()
    (root / NAME).write_bytes(content)
    fetch_and_unpack(archive(content=content), root)
    assert list(tmp_path.rglob("evil")) == []
    assert left_in(root) == {FOLDER, NAME}


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_root_that_cannot_be_a_folder_is_an_error(server: Server, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    root = file if kind == "file" else file / "data"
    message = error_of(archive(server.url("good")), root)
    assert f"{root} cannot be written" in message
    assert "--data.root" in message
    assert file.read_text() == "mine"
    assert server.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_root_that_is_read_only_is_an_error(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert f"{tmp_path} cannot be written (Permission denied)" in error_of(archive(server.url("good")), tmp_path)


def test_a_forbidden_root_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    message = error_of(archive(), tmp_path / "data")
    assert f"{tmp_path / 'data'} cannot be written (Permission denied)" in message
    assert "--data.root" in message


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_place_without_locks_is_called_that(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockless(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "_acquire", lockless)
    message = error_of(archive(), tmp_path)
    assert message.startswith(f"{tmp_path} is where no file can be locked ({os.strerror(number)}): name another folder")


def test_what_was_half_unpacked_by_a_killed_process_goes(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(PUBLISHED)
    half = tmp_path / f".{FOLDER}.k1ll3d" / FOLDER
    half.mkdir(parents=True)
    (half / "data_batch_1").write_bytes(b"half of it")
    another = tmp_path / f".{FOLDER}.of_now"
    another.mkdir()
    os.utime(half.parent, (0, 0))
    fetch_and_unpack(archive(), tmp_path)
    assert not half.parent.exists()
    assert another.exists()
    assert (tmp_path / FOLDER / "data_batch_1").read_bytes() == FILES["data_batch_1"]


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / NAME).write_bytes(PUBLISHED)
    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    message = error_of(archive(), tmp_path)
    assert "No space left on device" in message
    assert "make room" in message
    assert left_in(tmp_path) == {NAME}


def test_a_network_that_swallows_everything_is_known_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(download, "TIMEOUT", 30)
    with socket.socket() as full, contextlib.ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # With its queue full, the kernel drops further requests for a connection without a word.
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        begun = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            fetch_and_unpack(archive(f"http://127.0.0.1:{full.getsockname()[1]}/{NAME}"), tmp_path)
    assert time.monotonic() - begun < 5


def test_behind_a_dead_address_of_a_name_its_next_one_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a network gives out addresses of IPv6, and lets nothing through to them."""
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.5)
    create = socket.create_connection

    def first_one_swallows(address: tuple[str, int], timeout: float, *further: Any, **named: Any) -> socket.socket:
        if timeout == 0.5:
            time.sleep(timeout)
        return create(address, timeout, *further, **named)

    monkeypatch.setattr(socket, "create_connection", first_one_swallows)
    assert fetch_and_unpack(archive(server.url("good")), tmp_path).is_dir()
