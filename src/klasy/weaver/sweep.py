"""Clearing what weaves that were killed have left, and nothing else.

A staging directory is a leftover when nobody holds its lock, an aspect when it was never switched on. A group of kernel
probe events is one when its name says that it is of this bpffs and no directory here claims it: a weave makes its
directory before the group, and removes it after.
"""

from __future__ import annotations

import os

from klasy.errors import SystemRefusal
from klasy.plain import TYPE_CHECKING, suppress
from klasy.weaver.remove import delete_events, remove
from klasy.weaver.tracefs import KprobeEvents, expedited_rcu, group_token, restore_rcu

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from klasy.weaver.pinfs import PinFS


def sweep(pinfs: PinFS) -> list[str]:
    """Clear leftovers; what was cleared. The lock must be held. What resists is left to a later sweep."""
    restore_rcu(pinfs.hurry)
    cleared = []
    for name in pinfs.unfinished():
        with suppress(SystemRefusal, OSError):
            pinfs.withdraw(name, pinfs.token()).close()
    for name in pinfs.stagings():
        with suppress(SystemRefusal, OSError):
            staging = pinfs.claim(name)
            if staging is None:
                continue
            try:
                remove(pinfs, staging)
                cleared.append(name)
            finally:
                staging.close()
    with suppress(SystemRefusal, OSError):
        ownerless = _orphans(pinfs)
        if ownerless:
            with expedited_rcu(pinfs.hurry):
                for group in ownerless:
                    delete_events(KprobeEvents(), group)
                    cleared.append(group)
    return cleared


def clear_leftovers(pinfs: PinFS) -> list[str]:
    """Sweep if there is a sign of leftovers; what was cleared. For commands that only read: no error if it fails."""
    if os.geteuid() != 0:
        return []
    with suppress(SystemRefusal, OSError):
        signs = pinfs.is_empty() or pinfs.stagings() or pinfs.unfinished() or os.path.isdir(pinfs.hurry)
        if signs or _orphans(pinfs):
            with pinfs.lock():
                cleared = sweep(pinfs)
                pinfs.tidy()
                return cleared
    return []


def _orphans(pinfs: PinFS) -> list[str]:
    return orphans(KprobeEvents().groups(), pinfs.claimed_groups(), os.stat(pinfs.mount).st_dev)


def orphans(groups: Iterable[str], claimed: Collection[str], fs: int) -> list[str]:
    """The groups of kernel probe events that were made for the bpffs ``fs`` and belong to no directory in it."""
    return [
        group
        for group in groups
        if group not in claimed and (token := group_token(group)) is not None and token.fs == fs
    ]
