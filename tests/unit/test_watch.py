"""The watch list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import UsageError
from sensor.watch import WatchList, compile_pattern

PATTERNS = ("/etc/shadow", "/home/*/.ssh/*", "/root/.aws/credentials", "/etc/ssh/ssh_host_*_key", "/srv/?/key",
            "/var/log/[ab]/x")


@pytest.mark.parametrize("path", [
    "/etc/shadow", "/home/u/.ssh/id_rsa", "/root/.aws/credentials", "/etc/ssh/ssh_host_rsa_key", "/srv/a/key",
    "/var/log/b/x", "/home/new\nline/.ssh/\x1b"])
def test_watched_path_matches(path: str) -> None:
    """Wildcards stand for any characters of one component."""
    assert WatchList(PATTERNS).matches(path)


@pytest.mark.parametrize("path", [
    "/etc/shadow-", "/x/etc/shadow", "/shadow", "/home/u/v/.ssh/id", "/home/.ssh/id", "/home/u/.ssh",
    "/home/u/.ssh/a/b", "/srv/ab/key", "/etc/ssh/ssh_host_rsa_key.pub", "/var/log/c/x", "", "/", "shadow"])
def test_other_path_does_not_match(path: str) -> None:
    """A wildcard never crosses a slash."""
    assert not WatchList(PATTERNS).matches(path)


def test_kernel_gets_the_fixed_one_of_the_last_two_names() -> None:
    """A file's name where it is fixed, else its directory's."""
    made = WatchList(PATTERNS)
    assert made.leaves == {"shadow", "credentials", "key", "x"}
    assert made.parents == {".ssh", "ssh"}


@pytest.mark.parametrize("text", [
    "etc/shadow", "", "/", "/etc//shadow", "/etc/../shadow", "/etc/", "/home/*/*", "/*", "/home/*/*.key",
    "/etc/**/key", "/x/" + "*a" * 5])
def test_pattern_that_cannot_be_filtered_is_refused_with_its_text(text: str) -> None:
    """The operator learns which one and why, before anything is loaded."""
    with pytest.raises(UsageError, match="watched path"):
        compile_pattern(text)


NAMES = st.text(alphabet="ab.*?/", min_size=1, max_size=6)


@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(st.text(alphabet="ab.", max_size=4), max_size=5))
def test_kernel_names_never_miss_a_path_that_matches(pattern: list[str], path: list[str]) -> None:
    """What the two sets of names would drop, no pattern matches."""
    try:
        made = WatchList(["/" + "/".join(pattern)])
    except UsageError:
        return
    names = ["", *path]
    if made.matches("/".join(names)):
        assert names[-1] in made.leaves or names[-2] in made.parents
