"""Paths as texts."""

from __future__ import annotations

import os.path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sensor import paths

TEXT = st.text(alphabet=st.sampled_from([*"/.ab", "\n", "\x1b", "\udcff", "é"]), max_size=40)


@given(TEXT)
@example("//a")
@example("/..")
def test_normalising_twice_changes_nothing(path: str) -> None:
    """Normalise is idempotent."""
    once = paths.normalise(path)
    assert paths.normalise(once) == once


@given(TEXT)
def test_absolute_path_stays_absolute_and_clean(path: str) -> None:
    """No empty, dot or dot-dot component is left in an absolute path."""
    clean = paths.normalise("/" + path)
    assert clean == "/" or (clean[0] == "/" and not {"", ".", ".."} & set(clean[1:].split("/")))


@given(TEXT)
def test_normalising_agrees_with_posixpath(path: str) -> None:
    """The standard library does the same, but for the two leading slashes that POSIX leaves open."""
    reference = os.path.normpath("/" + path.lstrip("/")) if path[:1] == "/" else os.path.normpath(path)
    assert paths.normalise(path) == (reference if path else "")


@pytest.mark.parametrize(("base", "name", "path"), [
    ("/etc", "passwd", "/etc/passwd"),
    ("/etc/", "./x/../passwd", "/etc/passwd"),
    ("/etc", "/tmp//a/", "/tmp/a"),
    ("/etc", "", "/etc"),
    ("/", "a", "/a"),
    ("/a", "../../../b", "/b"),
    ("", "relative/name", "relative/name"),
    ("", "", ""),
])
def test_name_is_joined_to_its_base(base: str, name: str, path: str) -> None:
    """An argument means what the system call would make of it, links aside."""
    assert paths.join(base, name) == path


def test_walked_path_is_preferred_to_argument() -> None:
    """What the kernel walked wins over what the caller said."""
    assert paths.target("/real", "/b", "n") == "/real"
    assert paths.target("", "/b", "n") == "/b/n"
    assert paths.target("", "", "") == ""


@pytest.mark.parametrize(("path", "parts"), [
    ("/etc/passwd", ("/etc", "passwd", "")),
    ("/a.tar.gz", ("/", "a.tar.gz", "gz")),
    ("/home/u/.bashrc", ("/home/u", ".bashrc", "")),
    ("/home/u/..x", ("/home/u", "..x", "")),
    ("/x/.hid.den", ("/x", ".hid.den", "den")),
    ("/x/end.", ("/x", "end.", "")),
    ("name", ("", "name", "")),
    ("/", ("", "", "")),
    ("", ("", "", "")),
])
def test_path_is_split(path: str, parts: tuple[str, str, str]) -> None:
    """Directory, name and extension; a leading dot begins no extension."""
    assert paths.split(path) == parts


def _executed(filename: str, interpreter: str = "", resolved: str = "/usr/bin/kmod", cwd: str = "/root", *,
              script: bool = False, fd: bool = False) -> tuple[str, str]:
    return paths.executed(filename, interpreter or filename, resolved, cwd, script=script, by_descriptor=fd)


def test_executable_keeps_symbolic_links() -> None:
    """A program is called what the caller called it: lsmod, not kmod."""
    assert _executed("/usr/bin/lsmod") == ("/usr/bin/lsmod", "")


@pytest.mark.parametrize(("filename", "path"), [
    ("./x", "/root/x"), ("x", "/root/x"), ("../bin//x", "/bin/x"), ("/usr/./bin/../sbin/x", "/usr/sbin/x")])
def test_executable_is_absolute_and_normalised(filename: str, path: str) -> None:
    """A relative name starts from the working directory."""
    assert _executed(filename) == (path, "")


def test_script_gives_interpreter_as_named_in_it_and_own_path() -> None:
    """/bin/sh stays /bin/sh though it is a link, and the script has a field of its own."""
    assert _executed("./run.sh", "/bin/sh", "/usr/bin/dash", script=True) == ("/bin/sh", "/root/run.sh")


def test_relative_name_without_working_directory_is_the_resolved_path() -> None:
    """Better the other name of the program than half of this one."""
    assert _executed("./x", cwd="") == ("/usr/bin/kmod", "")


@pytest.mark.parametrize(("filename", "resolved", "path"), [
    ("/dev/fd/3", "/memfd:x", "/memfd:x"),
    ("/dev/fd/3/", "/usr/bin/id", "/usr/bin/id"),
    ("/dev/fd/5/bin/id", "/usr/bin/id", "/usr/bin/id"),
    ("/dev/fd/5/bin/lsmod", "/usr/bin/kmod", "/dev/fd/5/bin/lsmod"),
    ("/dev/fd/3", "", "/dev/fd/3"),
    ("", "/usr/bin/id", "/usr/bin/id"),
])
def test_execution_by_descriptor_is_named_by_the_file(filename: str, resolved: str, path: str) -> None:
    """A descriptor is no name; a name below one is kept where it shows a link."""
    assert _executed(filename, resolved=resolved, fd=True) == (path, "")


def test_script_by_descriptor_keeps_what_the_interpreter_got() -> None:
    """The interpreter is given /dev/fd/N as the script's name, and so is the reader."""
    found = _executed("/dev/fd/3", "/bin/sh", "/usr/bin/dash", script=True, fd=True)
    assert found == ("/bin/sh", "/dev/fd/3")


@given(TEXT, TEXT, TEXT, TEXT, st.booleans(), st.booleans())
def test_executed_paths_are_absolute_or_empty(filename: str, interpreter: str, resolved: str, cwd: str,
                                              script: bool, fd: bool) -> None:
    """Whatever the record holds."""
    resolved, cwd = ("/" + part if part else "" for part in (resolved, cwd))
    for path in paths.executed(filename, interpreter, resolved, cwd, script=script, by_descriptor=fd):
        assert path == "" or path == paths.normalise(path)
        assert path[:1] in ("", "/")
