"""The one list of kernels klasy supports: the command line, the tests and the documents all read it from here.

Nothing here touches the network or the disk; `klasy.lab.fetch` turns an entry into files.
"""

from __future__ import annotations

from klasy.plain import NamedTuple


class LabKernel(NamedTuple):
    """A kernel the lab can boot: Debian's stock amd64 image of one release.

    ``name`` is what the user types, ``package`` the Debian package that always depends on the newest image, ``suites``
    the Debian suites that may hold it (the highest version wins).
    """

    name: str
    package: str
    suites: tuple[str, ...]


KERNELS: tuple[LabKernel, ...] = (
    LabKernel("6.1", "linux-image-amd64", ("bookworm", "bookworm-security")),
    LabKernel("6.12", "linux-image-amd64", ("bookworm-backports",)),
)

DEFAULT = KERNELS[0]


def by_name(name: str) -> LabKernel:
    """The kernel called ``name``. Raises KeyError, whose text lists the names there are."""
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise KeyError(f"no kernel {name!r} in the lab; there are {', '.join(kernel.name for kernel in KERNELS)}")
