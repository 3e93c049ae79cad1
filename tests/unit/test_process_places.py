"""Containers, units and users."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.process import containers, users
from sensor.process.containers import Places, classify
from sensor.process.users import EXPIRY_NS, Users

ID = "3f9a" * 16
OTHER = "0b1c" * 16
POD = "6b1f2c5e_90ab_4cde_8f01_23456789abcd"


@pytest.mark.parametrize(("path", "identifier", "runtime", "service"), [
    (f"/docker/{ID}", ID, "docker", ""),
    (f"/system.slice/docker-{ID}.scope", ID, "docker", ""),
    (f"/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope", ID, "docker",
     "user@1000.service"),
    (f"/system.slice/docker-{ID}.scope/init.scope", ID, "docker", ""),
    (f"/system.slice/docker-{ID}.scope/system.slice/nginx.service", ID, "docker", "nginx.service"),
    (f"/docker/{ID}/docker/{OTHER}", OTHER, "docker", ""),
    (f"/kubepods/besteffort/pod6b1f2c5e-90ab-4cde-8f01-23456789abcd/{ID}", ID, "", ""),
    (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD}.slice/cri-containerd-{ID}.scope", ID,
     "containerd", ""),
    (f"/system.slice/containerd.service/kubepods-besteffort-pod{POD}.slice:cri-containerd:{ID}", ID, "containerd",
     "containerd.service"),
    (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{POD}.slice/cri-containerd-{ID}.scope", ID,
     "containerd", ""),
    (f"/kubepods.slice/kubepods-pod{POD}.slice/crio-{ID}.scope", ID, "cri-o", ""),
    (f"/kubepods.slice/kubepods-pod{POD}.slice/crio-{ID}.scope/container", ID, "cri-o", ""),
    (f"/kubepods.slice/kubepods-pod{POD}.slice/crio-conmon-{ID}.scope", "", "", ""),
    (f"/machine.slice/libpod-{ID}.scope/container", ID, "podman", ""),
    (f"/machine.slice/libpod-conmon-{ID}.scope", "", "", ""),
    (f"/libpod_parent/libpod-{ID}", ID, "podman", ""),
    (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", ID, "podman",
     "user@1000.service"),
    (f"/system.slice/nerdctl-{ID}.scope", ID, "containerd", ""),
    (f"/default/{ID}", ID, "containerd", ""),
    (f"/actions_job/{ID}", ID, "", ""),
    ("/lxc.payload.web1", "web1", "lxc", ""),
    ("/lxc/web1", "web1", "lxc", ""),
    ("/lxc.payload.web1/system.slice/ssh.service", "web1", "lxc", "ssh.service"),
    ("/system.slice/nginx.service", "", "", "nginx.service"),
    ("/system.slice/system-getty.slice/getty@tty1.service", "", "", "getty@tty1.service"),
    ("/user.slice/user-1000.slice/session-3.scope", "", "", ""),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/foot.service", "", "", "foot.service"),
    ("/init.scope", "", "", ""),
    ("/", "", "", ""),
    ("", "", "", ""),
    ("/build/0123456789ab", "", "", ""),
    (f"/system.slice/docker-{ID}x.scope", "", "", ""),
    (f"/system.slice/docker-{ID}\n.scope", "", "", ""),
    ("/system.slice/.service", "", "", ""),
])
def test_cgroup_path_tells_container_and_unit(path: str, identifier: str, runtime: str, service: str) -> None:
    """The shapes that the engines make, and some that only look like them."""
    place = classify(path)
    assert (place.container_id, place.runtime, place.service) == (identifier, runtime, service)
    assert place.fragment.get("container", {}).get("id", "") == identifier
    assert place.fragment.get("service", {}).get("name", "") == service
    assert place.path == path


@given(st.text(max_size=60), st.sampled_from(["/lxc/", "/docker-", "/kubepods/", "/a:cri-containerd:", "/x.service/"]))
def test_any_path_is_classified(text: str, beginning: str) -> None:
    """Cgroups are named by whoever may make them."""
    classify(beginning + text)


def test_places_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path gives the same object; a flood of paths starts anew."""
    monkeypatch.setattr(containers, "CAPACITY", 3)
    places = Places()
    assert places.of("/a.service") is places.of("/a.service")
    for number in range(10):
        places.of(f"/{number}")
    assert len(places._known) <= 3
    assert places.of("/a.service").service == "a.service"


def test_user_name_is_asked_for_once_until_it_expires() -> None:
    """No such user is remembered as well."""
    asked = []

    def lookup(uid: int) -> str | None:
        asked.append(uid)
        return {0: "root"}.get(uid)

    cache = Users(lookup)
    for now in (0, EXPIRY_NS - 1):
        assert cache.name(0, now) == "root"
        assert cache.name(9, now) is None
    assert asked == [0, 9]
    cache.name(0, EXPIRY_NS)
    assert asked == [0, 9, 0]


def test_renamed_user_shows_in_documents_after_expiry() -> None:
    """The ready-made part expires with the name."""
    names = {5: "old"}
    cache = Users(names.get)
    assert cache.fragment(5, 6, 0) == {"id": "5", "name": "old", "effective": {"id": 5, "group": {"id": 6}}}
    names[5] = "new"
    assert cache.fragment(5, 6, 1)["name"] == "old"
    assert cache.fragment(5, 6, EXPIRY_NS)["name"] == "new"


@pytest.mark.parametrize(("error", "counted"), [(KeyError(), 0), (OSError(), 1), (OverflowError(), 1)])
def test_broken_name_service_is_counted_and_gives_no_name(error: Exception, counted: int) -> None:
    """A user without a name is no error; a name service that fails is one."""
    def lookup(uid: int) -> str | None:
        raise error

    cache = Users(lookup)
    assert cache.name(1, 0) is None
    assert cache.errors == counted


def test_user_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are cheap to make up."""
    monkeypatch.setattr(users, "CAPACITY", 4)
    cache = Users(str)
    for uid in range(50):
        cache.fragment(uid, uid, 0)
    assert max(len(cache._names), len(cache._fragments)) <= 4
