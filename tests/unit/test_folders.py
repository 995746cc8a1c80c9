"""Users without a home, with somebody else's runtime directory, with folders that they may not use."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller import compiled
from testbed import folders
from testbed.cli import main
from testbed.errors import HostError
from testbed.inference.vouching import Voucher
from testbed.runtime.host.state import state_root

#: That no passwd entry has.
UID = 54321
VARIABLES = ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(f"/tmp/testbed-{UID}", ignore_errors=True)


def as_user(action: Callable[[], object], **environment: str) -> object:
    """What the action returns (as JSON), or the text of its error, for a user without a passwd entry."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for variable in VARIABLES:
            os.environ.pop(variable, None)
        os.environ.update(environment)
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        try:
            answer = action()
        except BaseException as error:  # noqa: BLE001 - the parent judges
            answer = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(answer, default=str).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def own(folder: Path) -> Path:
    folder.mkdir()
    os.chown(folder, UID, UID)
    return folder


@pytest.mark.root
def test_a_runtime_directory_counts_if_it_is_the_users(open_folder: Path) -> None:
    private = f"/tmp/testbed-{UID}"
    mine, roots = own(open_folder / "mine"), open_folder / "roots"
    roots.mkdir(mode=0o700)
    state = state_root
    assert as_user(state, XDG_RUNTIME_DIR=str(mine)) == str(mine / "testbed")
    assert as_user(state, XDG_RUNTIME_DIR=str(roots)) == private
    assert as_user(state, XDG_RUNTIME_DIR=str(open_folder / "missing")) == private
    assert as_user(state, XDG_RUNTIME_DIR="relative") == private
    assert as_user(state) == private
    assert Path(private).stat().st_mode & 0o777 == 0o700


@pytest.mark.root
def test_somebody_elses_private_folder_is_refused(open_folder: Path) -> None:
    Path(f"/tmp/testbed-{UID}").symlink_to(open_folder)
    try:
        assert "is not a directory of ours" in str(as_user(state_root))
    finally:
        Path(f"/tmp/testbed-{UID}").unlink()


@pytest.mark.root
@pytest.mark.parametrize("home", ["", "/nonexistent", "/root", "relative", "/dev/null"])
def test_without_a_home_what_is_kept_is_kept_in_the_private_folder(open_folder: Path, home: str) -> None:
    environment = {"HOME": home} if home else {}
    for file in (folders.cache_file, folders.state_file):
        assert str(as_user(lambda file=file: file("a", "b.json"), **environment)).startswith(f"/tmp/testbed-{UID}/.")


@pytest.mark.root
def test_a_home_that_is_the_users_is_used(open_folder: Path) -> None:
    home, cache = own(open_folder / "home"), own(open_folder / "cache")
    assert as_user(lambda: folders.cache_file("x"), HOME=str(home)) == f"{home}/.cache/testbed/x"
    assert as_user(lambda: folders.state_file("x"), HOME=str(home)) == f"{home}/.local/state/testbed/x"
    assert as_user(lambda: folders.cache_file("x"), HOME=str(home), XDG_CACHE_HOME=str(cache)) == f"{cache}/testbed/x"
    assert (
        as_user(lambda: folders.cache_file("x"), HOME=str(home), XDG_CACHE_HOME="/root/no")
        == f"{home}/.cache/testbed/x"
    )


@pytest.mark.root
def test_libraries_get_a_place_only_where_there_is_no_home(open_folder: Path) -> None:
    def places() -> list[str | None]:
        folders.give_libraries_a_place()
        return [os.environ.get("MPLCONFIGDIR"), os.environ.get("NUMBA_CACHE_DIR")]

    assert as_user(places, HOME=str(own(open_folder / "home"))) == [None, None]
    assert all(str(place).startswith(f"/tmp/testbed-{UID}/.") for place in list(as_user(places)))  # type: ignore[call-overload]
    assert as_user(places, MPLCONFIGDIR="/x")[0] == "/x"  # type: ignore[index]


def test_a_routine_compiles_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that is read-only and a home that is not there: numba finds "no locator available"."""
    real = compiled.njit

    def njit(*arguments: object, cache: bool = False, **options: object) -> object:
        if cache:
            return refuse
        return real(*arguments, **options)

    def refuse(function: object) -> None:
        raise RuntimeError(f"cannot cache function {function!r}: no locator available")

    monkeypatch.setattr(compiled, "njit", njit)

    def double(value: int) -> int:
        return 2 * value

    assert compiled.compiled(double)(21) == 42


def test_the_mode_of_our_folders_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert folders.make_own(tmp_path / "state", 0o755).stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_a_folder_that_cannot_be_made_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=rf"{tmp_path}/file/state cannot be made \(Not a directory\)"):
        folders.make_own(tmp_path / "file" / "state", 0o755)
    assert not folders.can_be_written(tmp_path / "file" / "x")
    assert folders.can_be_written(tmp_path / "new" / "x")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["symbolic", "hard", "folder"])
def test_root_follows_no_links_in_a_users_run(open_folder: Path, kind: str) -> None:
    """A report written there must not end up in a file of root's."""
    run, target = own(open_folder / "run"), open_folder / "precious"
    folders.refuse_links(run)
    target.write_text("root's")
    if kind == "symbolic":
        (run / "report.html").symlink_to(target)
    elif kind == "hard":
        (run / "report.html").hardlink_to(target)
    else:
        (run / "streams").symlink_to(open_folder)
    with pytest.raises(SystemExit) as caught:
        main(["report", str(run)])
    assert caught.value.code == 2
    assert target.read_text() == "root's"
    os.chown(run, 0, 0)  # root's own may have links
    folders.refuse_links(run)


@pytest.mark.root
def test_without_a_home_a_model_is_remembered_to_have_been_traced(open_folder: Path) -> None:
    def remembered() -> list[bool]:
        voucher = Voucher("torchvision:resnet18", open_folder, None)
        before = voucher.known
        voucher.remember()
        return [before, voucher.known]

    assert as_user(remembered) == [False, True]
