"""Paths as texts: joined, normalised and split without asking a file system.

Lexical on purpose: the engine may run in another mount namespace, later, or on another machine.
Where the kernel's own walk of a dentry is in the record, it is preferred to anything made here.
"""

from __future__ import annotations


def normalise(path: str) -> str:
    """*path* without empty, ``.`` and ``..`` components and without a trailing slash.

    An absolute path stays absolute (``..`` of the root is the root); a relative one stays
    relative and may begin with ``..``; nothing left is ``/`` or ``.``; empty stays empty.
    """
    if not path:
        return ""
    absolute = path[0] == "/"
    # Nearly every path is clean already, and this test is cheaper than the rebuild.
    if absolute and "//" not in path and "/." not in path and path[-1] != "/":
        return path
    kept: list[str] = []
    for part in path.split("/"):
        if not part or part == ".":
            continue
        if part != "..":
            kept.append(part)
        elif kept and kept[-1] != "..":
            kept.pop()
        elif not absolute:
            kept.append(part)
    text = "/".join(kept)
    return "/" + text if absolute else text or "."


def join(base: str, name: str) -> str:
    """The path that *name* means in the directory *base*, normalised.

    An absolute name ignores the base; an empty name means the base itself (AT_EMPTY_PATH). With
    no base known, a relative name is given back as it is: a rule can still match its end.
    """
    if name[:1] == "/":
        return normalise(name)
    if not base:
        return name
    return normalise(f"{base}/{name}" if name else base)


def target(path: str, base: str, name: str) -> str:
    """The path a hook reports: the walked one if there is one, else the argument in its base."""
    return path or (join(base, name) if base or name else "")


def split(path: str) -> tuple[str, str, str]:
    """(directory, name, extension) of *path*; what it does not have is an empty text.

    The extension comes without its dot; a leading dot hides a file and begins no extension.
    """
    directory, slash, name = path.rpartition("/")
    if slash and not directory and name:
        directory = "/"
    dot = name.rfind(".")
    return directory, name, name[dot + 1:] if dot > 0 and name[:dot].strip(".") else ""


def executed(filename: str, interpreter: str, resolved: str, cwd: str, *, script: bool,
             by_descriptor: bool) -> tuple[str, str]:
    """(executable, script) as absolute paths, the way the caller named them, symbolic links kept.

    Args:
        filename: ``bprm->filename``: the path given to execve(); for execveat() on a descriptor
            the kernel makes it up as ``/dev/fd/N`` or ``/dev/fd/N/name``.
        interpreter: ``bprm->interp``: what really ran; for a script, as its first line names it.
        resolved: The program file walked from its dentry: for a script, the interpreter's.
        cwd: Working directory, which a relative name starts from.
        script: A ``#!`` line (or binfmt_misc) led to another program.
        by_descriptor: Executed by file descriptor.

    Returns:
        The script is empty where none was executed. Both are absolute or empty.
    """
    if by_descriptor:
        named = _descriptor_name(filename, "" if script else resolved)
    else:
        named = _absolute(cwd, filename)
    if script:
        return _absolute(cwd, interpreter) or normalise(resolved), named
    return named or normalise(resolved), ""


def _absolute(cwd: str, name: str) -> str:
    """*name* in *cwd*, or nothing where that can't be an absolute path."""
    path = join(cwd, name) if name else ""
    return path if path[:1] == "/" else ""


def _descriptor_name(filename: str, resolved: str) -> str:
    """What to call a program that was executed through ``/dev/fd/N`` or ``/dev/fd/N/name``.

    Which directory N was is gone by now. The resolved path stands for it, unless its last
    component shows that the name was a symbolic link: then the name as executed is worth more.
    """
    tail = filename[len("/dev/fd/"):] if filename.startswith("/dev/fd/") else ""
    name = tail.rstrip("/").partition("/")[2].rpartition("/")[2]
    if resolved and (not name or name in (".", "..") or resolved.rpartition("/")[2] == name):
        return normalise(resolved)
    return normalise(filename) if filename[:1] == "/" else normalise(resolved)
