"""Taking aspects out of the kernel."""

from __future__ import annotations

import os

from klasy.errors import NotRoot, SystemRefusal
from klasy.plain import TYPE_CHECKING
from klasy.weaver.pinfs import LockRefused, PinFS
from klasy.weaver.remove import remove, switch
from klasy.weaver.signals import signals_held
from klasy.weaver.sweep import sweep
from klasy.weaver.tracefs import expedited_rcu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.weaver.pinfs import Staging


def unweave(
    names: Sequence[str] | None = None,
    pinfs: PinFS | None = None,
    *,
    on_unread: Callable[[str, int], None] | None = None,
) -> list[str]:
    """Take aspects out of the kernel; which ones were. None: all.

    Hits stop at once. Signals that end a process wait until it is done. ``on_unread`` is called with each aspect that
    had records in its log that nobody had read, and their number. Raises NotWoven if a name is unknown, before
    anything is taken out; SystemRefusal if the kernel does not let go, in which case the next command tries again.

    An aspect that denies what this needs, the lock or the renaming, is switched off first.
    """
    fs = pinfs or PinFS()
    if os.geteuid() != 0:
        raise NotRoot("unweaving needs root", hint="run klasy as root, e.g. with sudo")
    try:
        return _unweave(fs, names, on_unread)
    except LockRefused:
        silenced = [name for name in fs.aspects() if names is None or name in names]
        for name in silenced:
            switch(fs.path(name), on=False)
        if not silenced:
            raise
    return _unweave(fs, names, on_unread)


def _unweave(fs: PinFS, names: Sequence[str] | None, on_unread: Callable[[str, int], None] | None) -> list[str]:
    with fs.lock(), signals_held():
        try:
            sweep(fs)
            chosen = _chosen(fs.aspects(), names)
            with expedited_rcu(fs.hurry):
                for name in chosen:
                    staging = _withdrawn(fs, name)
                    try:
                        remove(fs, staging, on_unread and (lambda number, name=name: on_unread(name, number)))
                    finally:
                        staging.close()
        finally:
            fs.tidy()
    return chosen


def _withdrawn(fs: PinFS, name: str) -> Staging:
    try:
        return fs.withdraw(name, fs.token())
    except SystemRefusal:
        if name not in fs.aspects():
            raise
        switch(fs.path(name), on=False)
    return fs.withdraw(name, fs.token())


def _chosen(woven: list[str], names: Sequence[str] | None) -> list[str]:
    if names is None:
        return woven
    missing = list(dict.fromkeys(name for name in names if name not in woven))
    if missing:
        from klasy.weaver.woven import not_woven

        raise not_woven(missing, woven)
    return list(dict.fromkeys(names))
