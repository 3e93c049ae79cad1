"""What a guest is made of. Everything here is cached under a name that holds a hash of its recipe."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sensor.errors import HostError
from tests.conftest import outside_data
from tests.live.harness import CFLAGS, WORKLOADS, Workloads
from tests.vm.host import Apt, building, cache, locked, run, say, source_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

CHECKOUT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).parent / "guest"
#: label -> suite that ships it
KERNELS = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "7.2": "sid"}
#: Disk drivers are modules in 5.10 and 6.1 and built in later; overlay is a module everywhere.
MODULES = ("virtio_pci", "virtio_blk", "overlay")
#: Suites that a root image is made of: each has another BCC and another Python. Not bullseye: its
#: Python is 3.9, and the sensor needs 3.10.
ROOTS = ("bookworm", "trixie", "sid")
ROOT_SUITE = ROOTS[0]
ROOT_PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-bpfcc", "python3-psutil",
                 "python3-yaml", "iproute2", "kmod", "procps", "bpftool", "util-linux", "adduser")
#: What only the usual root has: for `make install`, and a co-tenant for the probes.
MORE_PACKAGES = ("make", "python3-venv", "bpftrace")
#: Root images for one test each: the suite, and packages besides those of its usual root.
VARIANTS = {"bookworm-atomics": (ROOT_SUITE, (
    "bsdextrautils", "ca-certificates", "dmidecode", "e2fsprogs", "file", "hostname", "ldap-utils", "libc-bin", "login",
    "net-tools", "openssh-client", "openssl", "passwd", "perl", "plocate", "rsync", "samba", "sudo", "whois", "xxd"))}
#: Where the wheels' disk holds them as files: PIP_FIND_LINKS of a guest.
WHEELHOUSE = ".wheels"
#: What of the checkout a guest gets, as /opt/sensor.
SHIPPED = ("sensor", "probes", "rules", "systemd", "tests/conftest.py", "tests/live", "tests/workloads",
           "pyproject.toml", "Makefile", "tools", "README.md", "LICENSE", "LICENSES")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel image and the decompressed modules, named in load order."""

    label: str
    image: Path
    modules: tuple[Path, ...]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _cached(target: Path, build: Callable[[Path], Path]) -> Path:
    """*target*, built once. *build* gets a scratch directory and returns what to rename."""
    if target.exists():  # whole, since it was renamed: no need to wait for whoever builds another
        return target
    with locked():
        if not target.exists():
            start = time.monotonic()
            with building(target) as work:
                build(work).rename(target)
            say(f"built {target.name} in {time.monotonic() - start:.0f} s")
    return target


_apt: list[Apt] = []


def _debian() -> Apt:
    if not _apt:
        _apt.append(Apt(list(KERNELS.values())))
    return _apt[0]


def _natural(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _release(label: str, apt: Apt) -> str:
    """The newest cloud kernel of series *label*: configured as the others, with fewer drivers."""
    names = "\n".join(apt.names("linux-image-"))
    series = r"^linux-image-({}\.\d+(?:-\d+)?(?:\+deb\d+)?-cloud-amd64)$"  # not …-0.deb11.…: a backport
    found: list[str] = re.findall(series.format(re.escape(label)), names, re.MULTILINE)
    if not found:  # sid moves on
        found = re.findall(series.format(r"\d+\.\d+"), names, re.MULTILINE)
        say(f"no kernel {label} in {KERNELS[label]} any more: taking the newest of all")
    if not found:
        raise HostError(f"the mirror has no kernel for {label}")
    return max(found, key=_natural)


def _build_kernel(label: str, work: Path) -> Path:
    apt = _debian()
    release = _release(label, apt)
    say(f"fetching kernel {release}")
    # Since 7.x linux-image-* is empty and depends on these two.
    split = f"linux-binary-{release}" in apt.names("linux-binary-")
    names = ("binary", "modules") if split else ("image",)
    tree = apt.unpack([f"linux-{name}-{release}" for name in names], work)
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")  # depmod -b looks in lib/modules; newer packages use usr/lib
    run(["depmod", "-b", str(tree), release])
    root = tree / "lib" / "modules" / release
    out = work / "out"
    out.mkdir()
    image = next(p for p in (tree / "boot" / f"vmlinuz-{release}", root / "vmlinuz") if p.exists())
    shutil.copy(image, out / "vmlinuz")
    for number, module in enumerate(_load_order((root / "modules.dep").read_text())):
        data = (root / module).read_bytes()
        if module.endswith(".xz"):
            data = lzma.decompress(data)
        (out / f"{number:02d}-{Path(module).name.split('.')[0]}.ko").write_bytes(data)
    return out


def _load_order(dependencies: str) -> list[str]:
    """Paths of MODULES and what they need, in an order that insmod accepts. Built-in ones are not listed."""
    table = dict(line.split(":", 1) for line in dependencies.splitlines())
    order: dict[str, None] = {}
    for wanted in MODULES:
        for path, needs in table.items():
            if Path(path).name.split(".")[0] == wanted:
                order.update(dict.fromkeys([*reversed(needs.split()), path]))
    return list(order)


def kernel(label: str) -> Kernel:
    """The kernel of series *label*, fetched on first use."""
    home = _cached(cache() / f"kernel-{label}-{_digest(MODULES)}", lambda work: _build_kernel(label, work))
    return Kernel(label, home / "vmlinuz", tuple(sorted(home.glob("*.ko"))))


def _disk(tree: Path, image: Path, spare: int) -> Path:
    """*tree* as an ext4 image with *spare* MiB of room. ext4 is built into every kernel of the matrix."""
    used = sum(p.lstat().st_size + 4096 for p in tree.rglob("*"))
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-N", "131072", "-d", str(tree), str(image),
         f"{(used >> 20) * 5 // 4 + 40 + spare}M"])
    return image


def suite_of(root: str) -> str:
    """The Debian suite that the image *root* is made of."""
    return VARIANTS[root][0] if root in VARIANTS else root


def _packages(name: str) -> tuple[str, ...]:
    more = VARIANTS[name][1] if name in VARIANTS else ()
    return (*ROOT_PACKAGES, *(MORE_PACKAGES if suite_of(name) == ROOT_SUITE else ()), *more)


def _build_root(suite: str, work: Path) -> Path:
    if os.geteuid():
        raise HostError("building the root image needs root", fix=f"sudo {sys.executable} -m tests.vm --list")
    say(f"building the {suite} root image")
    drop = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")]
    tree, out = work / "tree", work / "out"
    run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
         '--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"',
         # A mirror may be frozen; what it serves is signed all the same.
         '--aptopt=Acquire::Check-Valid-Until "false"',
         f"--include={','.join(_packages(suite))}", *drop,
         "--customize-hook=echo sensor-vm > $1/etc/hostname",
         "--customize-hook=chroot $1 passwd -d root",
         "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*.bin", suite_of(suite), str(tree),
         *source_lines([suite_of(suite)])])
    out.mkdir()
    _disk(tree, out / "disk.ext4", spare=400)
    # sid's Python changes: the wheels must be for the one that this image has.
    (out / "python").write_text(os.readlink(tree / "usr" / "bin" / "python3").removeprefix("python"))
    return out


def _root(suite: str) -> Path:
    return _cached(cache() / f"root-{suite}-{_digest(_packages(suite))}", lambda work: _build_root(suite, work))


def root(suite: str = ROOT_SUITE) -> Path:
    """The guests' root disk: never written, qemu keeps changes in a throw-away file."""
    return _root(suite) / "disk.ext4"


def _build_wheels(python: str, needs: Sequence[str], work: Path) -> Path:
    say(f"fetching the sensor's wheels for Python {python}")
    platforms = [f"--platform={tag}_x86_64" for tag in ("manylinux2014", "manylinux_2_28", "manylinux_2_34")]
    chosen = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms, *needs]
    files = work / "tree" / WHEELHOUSE
    run([sys.executable, "-m", "pip", "download", "-q", "--dest", str(files), *chosen])
    run([sys.executable, "-m", "pip", "install", "-q", "--target", str(work / "tree"), "--no-index",
         f"--find-links={files}", *chosen])
    return _disk(work / "tree", work / "wheels.ext4", spare=0)


def wheels(suite: str = ROOT_SUITE) -> Path:
    """A read-only disk with what pyproject.toml asks for: installed, and as files for `make install`."""
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    project = declared["project"]
    tests = [need for need in project["optional-dependencies"]["test"] if not need.startswith("pyarrow")]  # 150 MB
    python = (_root(suite) / "python").read_text()
    needs = [*project["dependencies"], *tests, *declared["build-system"]["requires"]]
    return _cached(cache() / f"wheels-{_digest(python, WHEELHOUSE, sorted(needs))}.ext4",
                   lambda work: _build_wheels(python, needs, work))


def busybox() -> Path:
    """A static busybox: the only program in the initrd."""
    return _cached(cache() / "busybox", lambda work:
                   _debian().unpack([f"busybox-static/{ROOT_SUITE}"], work) / "bin" / "busybox")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    elif source.exists():
        shutil.copy2(source, target)


def _build_workloads(work: Path) -> Path:
    out = work / "out"
    out.mkdir()
    for source in WORKLOADS.glob("*.c"):
        target = Workloads(out).program(source.stem)  # finds the name that the live tests look for
        run(["gcc", *CFLAGS, "-static", "-o", str(target), str(source)])
    return out


def workloads() -> Path:
    """The workloads, compiled here: statically, since the guests have another libc and no compiler."""
    sources = [path.read_bytes() for path in sorted(WORKLOADS.iterdir())]
    return _cached(cache() / f"workloads-{_digest(CFLAGS, sources)}", _build_workloads)


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def payload(work: Path, overlays: Iterable[Path] = (), data: Iterable[str] = ()) -> Path:
    """A tree that is copied over the guest's root: /t (guest scripts, outside *data*) and /opt/sensor."""
    tree = work / "payload"
    for part in data:
        _copy(outside_data(part), tree / "t" / "data" / part)
    _copy(GUEST, tree / "t" / "guest")
    for name in SHIPPED:
        _copy(CHECKOUT / name, tree / "opt" / "sensor" / name)
    # Where the live tests look for what they have compiled before.
    _copy(workloads(), tree / "var" / "cache" / "pytest" / "d" / "workloads")
    packages = tree / "usr" / "lib" / "python3" / "dist-packages"
    packages.mkdir(parents=True)
    (packages / "sensor-vm.pth").write_text("/opt/sensor\n/opt/site\n")
    _script(tree / "usr" / "bin" / "sensor", "#!/usr/bin/python3\nfrom sensor.cli import main\n\nmain()\n")
    # The live tests ask for a compiler; what they need is compiled, so this one must never be called.
    _script(tree / "usr" / "bin" / "gcc", "#!/bin/sh\necho 'no compiler in this guest' >&2\nexit 1\n")
    unit = tree / "etc" / "systemd" / "system"
    _copy(GUEST / "vm.service", unit / "vm.service")
    (unit / "multi-user.target.wants").mkdir()
    (unit / "multi-user.target.wants" / "vm.service").symlink_to("../vm.service")
    for overlay in overlays:
        _copy(overlay, tree)
    # Never ship /lib or /bin: they are links in the root image, and cp -a would replace them.
    for name in ("lib", "bin", "sbin", "lib64"):
        if (tree / name).exists():
            raise HostError(f"an overlay holds /{name}: use /usr/{name}")
    return tree


def forget(tree: Path) -> None:
    """Remove the tree made by payload()."""
    shutil.rmtree(tree)


def initrd(chosen: Kernel, tree: Path, run_list: str, work: Path,
           compiled: Callable[[Path], None] = lambda _: None) -> Path:
    """The cpio of one boot: busybox, the modules, *tree*, the list of tests, and what *compiled* lays out."""
    home = work / "initrd"
    for name in ("bin", "m", "n", "dev", "proc"):
        (home / name).mkdir(parents=True)
    shutil.copy2(busybox(), home / "bin" / "busybox")
    shutil.copy2(GUEST / "initrd-init", home / "init")
    (home / "init").chmod(0o755)
    for module in chosen.modules:
        shutil.copy2(module, home / "m")
    shutil.copytree(tree, home / "payload", symlinks=True, copy_function=os.link)
    (home / "payload" / "t" / "list").write_text(run_list)
    compiled(home / "payload" / "t" / "compiled")
    names = b"".join(os.fsencode(p.relative_to(home)) + b"\0" for p in sorted(home.rglob("*")))
    out = work / "initrd.cpio"
    with open(out, "wb") as file:
        subprocess.run(["cpio", "-0", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=home, input=names,
                       stdout=file, check=True)
    shutil.rmtree(home)
    out.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return out
