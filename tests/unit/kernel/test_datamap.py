"""Variables by their addresses."""

from __future__ import annotations

import pytest

from klasy.kernel.datamap import DataMap

LISTING = b"""\
0000000000000000 A fixed_percpu_data
0000000000014a40 A runqueues
ffffffff90000000 T _text
ffffffff90000060 T kfree
ffffffff90001000 T _etext
ffffffff90002000 R sysctl_vals
ffffffff90002040 r __func__.1
ffffffff90003000 D init_stack
ffffffff90003000 D _sdata
ffffffff90003100 D init_net
ffffffff90003d80 t setup_once
ffffffff90003e00 B jiffies_total
ffffffff90004000 B _end
ffffffffc0400010 t helper\t[veth]
ffffffffc0402010 d veth_ops\t[veth]
ffffffffc0402000 d veth_table\t[veth]
ffffffffc0402900 b count\t[veth]
ffffffffc0403000 d others\t[nat]
ffffffffc0409040 b last\t[veth]
ffffffffc0500000 t bpf_prog_6dada33efe164363\t[bpf]
"""


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (0xFFFF_FFFF_9000_3100, ("init_net", 0, None)),
        (0xFFFF_FFFF_9000_3D7F, ("init_net", 0xC7F, None)),
        (0xFFFF_FFFF_9000_3008, ("init_stack", 8, None)),  # the first of the names, as printk has it
        (0xFFFF_FFFF_9000_2004, ("sysctl_vals", 4, None)),
        (0xFFFF_FFFF_9000_2FFF, ("__func__.1", 0xFBF, None)),
        (0xFFFF_FFFF_9000_3D80, None),  # code
        (0xFFFF_FFFF_9000_0060, None),
        (0xFFFF_FFFF_9000_1FFF, None),  # no symbol of data is before it
        (0x14A40, None),  # an offset, which may be any number
        (0xFFFF_8880_0000_0000, None),
        (0xFFFF_FFFF_C040_2008, ("veth_table", 8, "veth")),
        (0xFFFF_FFFF_C040_2010, ("veth_ops", 0, "veth")),
        (0xFFFF_FFFF_C040_2FFF, ("count", 0x6FF, "veth")),
        (0xFFFF_FFFF_C040_3FFF, ("others", 0xFFF, "nat")),
        (0xFFFF_FFFF_C040_4000, None),  # what follows is another module's
        (0xFFFF_FFFF_C040_9FFF, ("last", 0xFBF, "veth")),
        (0xFFFF_FFFF_C040_A000, None),
        (0xFFFF_FFFF_C050_0000, None),
    ],
)
def test_what_is_there(address, place):
    """The variable of the kernel or of a module, and how far in it the address is."""
    found = DataMap(lambda: LISTING).at(address)
    assert (found and (found.name, address - found.address, found.module)) == place


def test_the_listing_is_read_when_it_may_tell():
    """Once, and not for addresses that lie neither in the kernel's image nor among modules."""
    read = []
    data = DataMap(lambda: read.append(1) or LISTING)
    assert data.at(0xFFFF_8880_0000_0000) is None
    assert read == []
    assert data.at(0xFFFF_FFFF_9000_3100) is not None
    assert data.at(0xFFFF_FFFF_9000_1FFF) is None
    assert read == [1]


def test_only_code():
    """Without CONFIG_KALLSYMS_ALL the listing has functions only."""
    assert DataMap(lambda: b"ffffffff90000000 T _text\nffffffff90001000 T _etext\n").at(0xFFFF_FFFF_9000_3100) is None
    assert DataMap(lambda: b"").at(0xFFFF_FFFF_9000_3100) is None
