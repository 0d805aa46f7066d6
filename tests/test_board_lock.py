"""The board's lock: one process at a time, whoever has put what where the lock file is to be."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fracbnn_pynq.board import lock as locking
from fracbnn_pynq.board.lock import BoardLock, default_lock_path
from fracbnn_pynq.errors import BackendError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
NOBODY = 65534
HOLD = """
    import os, signal
    from fracbnn_pynq.board.lock import BoardLock
    lock = BoardLock({path!r})
    child = {child}
    print(child or os.getpid(), flush=True)
    signal.pause()
"""


def holder(path: Path, child: str = "None") -> subprocess.Popen[str]:
    script = textwrap.dedent(HOLD).format(path=str(path), child=child)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def free(path: Path) -> bool:
    try:
        BoardLock(path).release()
    except BackendError:
        return False
    return True


def test_the_lock_excludes_other_processes_and_dies_with_them(tmp_path: Path):
    path = tmp_path / "board.lock"
    with holder(path) as other:
        assert other.stdout is not None
        number = other.stdout.readline().strip()
        with pytest.raises(BackendError, match=rf"in use by process {number} .*; end that process"):
            BoardLock(path)
        other.kill()
        other.wait()
    lock = BoardLock(path)
    with pytest.raises(BackendError, match=rf"in use by process {os.getpid()} .*; close the classifier"):
        BoardLock(path)
    lock.release()
    lock.release()
    BoardLock(path).release()


def test_a_forked_process_does_not_hold_it(tmp_path: Path):
    """Else the board would stay locked for as long as a child lives that knows nothing of it."""
    path = tmp_path / "board.lock"
    with holder(path, "os.fork() or signal.pause()") as other:
        assert other.stdout is not None
        child = int(other.stdout.readline())
        os.kill(child, 0)
        assert not free(path)
        other.kill()
        other.wait()
        end = time.monotonic() + 5
        while not free(path):  # the child may have had no turn yet in which to let go of it
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_can_have_it_afterwards(tmp_path: Path):
    lock = BoardLock(tmp_path / "board.lock")
    for expected in (3, 0):
        child = os.fork()
        if child == 0:
            os._exit(0 if free(tmp_path / "board.lock") else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected
        lock.release()


def test_a_started_program_does_not_hold_it(tmp_path: Path):
    lock = BoardLock(tmp_path / "board.lock")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as other:
        lock.release()
        assert free(tmp_path / "board.lock")
        other.kill()


@pytest.mark.parametrize("content", ["", "junk", "0\n", "-1\n", "99999999999\n", "é" * 40, f"{2**22 - 1}\n"])
def test_files_left_behind_block_nobody(content: str, tmp_path: Path):
    path = tmp_path / "board.lock"
    path.write_text(content)
    lock = BoardLock(path)
    assert path.read_text() == f"{os.getpid()}\n"
    path.write_text(content)  # and whoever cannot be named is another process
    with pytest.raises(BackendError, match="the board is in use by another process"):
        BoardLock(path)
    lock.release()


def test_only_this_user_can_open_it(tmp_path: Path):
    """Whoever can read a file can lock it."""
    path = tmp_path / "board.lock"
    path.touch()
    path.chmod(0o666)
    BoardLock(path).release()
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    umask = os.umask(0)
    try:
        BoardLock(path).release()
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600


def as_link(path: Path) -> None:
    path.with_name("elsewhere").touch()
    path.symlink_to(path.with_name("elsewhere"))


def as_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def as_hard_link(path: Path) -> None:
    path.with_name("elsewhere").write_text("precious")
    os.link(path.with_name("elsewhere"), path)


def as_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)  # as bind() leaves it, which takes no more than 107 characters


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [as_link, as_dangling_link, as_hard_link, os.mkfifo, os.mkdir, as_socket])
def test_what_is_no_file_of_ours_is_refused_at_once(make: Callable[[Path], None], tmp_path: Path):
    make(tmp_path / "board.lock")
    with pytest.raises(
        BackendError, match=r"expected a lock file of this user's at .*board\.lock.*remove what is there"
    ):
        BoardLock(tmp_path / "board.lock")
    if make is as_hard_link:
        assert (tmp_path / "elsewhere").read_text() == "precious"
    elif make is not as_link:
        assert not (tmp_path / "elsewhere").exists()


@needs_root
def test_a_file_of_another_users_is_refused_at_once(tmp_path: Path):
    path = tmp_path / "board.lock"
    path.touch()
    os.chown(path, NOBODY, NOBODY)
    hostage = os.open(path, os.O_RDONLY)
    fcntl.flock(hostage, fcntl.LOCK_EX)
    with pytest.raises(BackendError, match=rf"found what belongs to user {NOBODY}: .*; remove what is there"):
        BoardLock(path)
    os.close(hostage)


def test_a_file_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cleaners do that; two processes must not hold the locks of two files of one name."""
    path = tmp_path / "board.lock"
    lock, removals = locking._lock, [1, 2]

    def removing(descriptor: int, path: Path) -> None:
        lock(descriptor, path)
        if removals:
            removals.pop()
            path.unlink()

    monkeypatch.setattr(locking, "_lock", removing)
    held = BoardLock(path)
    with pytest.raises(BackendError, match="in use by process"):
        BoardLock(path)
    held.release()
    removals += range(100)
    with pytest.raises(BackendError, match="something keeps removing it"):
        BoardLock(path)


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(BackendError, match=r"expected a lock file .* found No such file or directory"):
        BoardLock(tmp_path / "no" / "folder.lock")


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_lock_path() == Path("/run/fracbnn-board.lock")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_lock_path() == tmp_path / "fracbnn-board.lock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_lock_path().name == "1000-fracbnn-board.lock"


def test_descriptors_are_not_left_open(tmp_path: Path):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    path = tmp_path / "board.lock"
    before = count()
    lock = BoardLock(path)
    for _ in range(3):
        with pytest.raises(BackendError):
            BoardLock(path)
    lock.release()
    assert count() == before
