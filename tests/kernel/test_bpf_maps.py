"""Maps in the kernel."""

from __future__ import annotations

import struct

import pytest
from support.bpf_kernel import ZERO, no_leaks  # noqa: F401

from klasy.bpf import maps
from klasy.bpf import uapi as u
from klasy.errors import KernelRefused


def key(number: int) -> bytes:
    return struct.pack("<I", number)


def word(number: int) -> bytes:
    return struct.pack("<Q", number)


@pytest.mark.parametrize("kind", ["hash", "lru_hash"])
def test_hash(kind):
    """Update, lookup, delete, pop, and the flags that only create or only replace."""
    with maps.create(kind, name="m", key_size=4, value_size=8, max_entries=100) as m:
        assert m.lookup(key(1)) is None
        m.update(key(1), word(11), u.BPF_NOEXIST)
        with pytest.raises(KernelRefused, match="EEXIST"):
            m.update(key(1), word(12), u.BPF_NOEXIST)
        with pytest.raises(KernelRefused, match="ENOENT"):
            m.update(key(2), word(12), u.BPF_EXIST)
        m.update(key(1), word(13), u.BPF_EXIST)
        assert m.lookup(key(1)) == word(13)
        assert m.pop(key(1)) == word(13)
        assert m.pop(key(1)) is None
        m.update(key(2), word(2))
        assert (m.delete(key(2)), m.delete(key(2))) == (True, False)


@pytest.mark.parametrize("kind", ["hash", "lru_hash", "percpu_hash"])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_all_elements_come_and_once(kind, count):
    """Batched and single writing and reading see every element; take_all leaves nothing."""
    with maps.create(kind, name="m", key_size=4, value_size=8, max_entries=20000) as m:
        m.update_all((key(n), word(n * n)) for n in range(count))
        expected = {key(n): word(n * n) for n in range(count)}
        found = list(m.items())
        assert len(found) == count
        assert {k: m.part(v)[0] if m.per_cpu else v for k, v in found} == expected
        assert sorted(m.keys()) == sorted(expected)
        taken = m.take_all()
        assert {k: m.part(v)[0] if m.per_cpu else v for k, v in taken} == expected
        assert list(m.items()) == []


def test_full_hash():
    """A hash that is full refuses a new key with E2BIG, and still takes old ones."""
    with maps.create("hash", name="m", key_size=4, value_size=8, max_entries=4) as m:
        m.update_all((key(n), word(n)) for n in range(4))
        with pytest.raises(KernelRefused, match=r"writing map 'm': .*E2BIG"):
            m.update(key(4), word(4))
        m.update(key(3), word(33))
        assert m.lookup(key(3)) == word(33)


def test_array():
    """An array is zeroed and bounded; its elements cannot be deleted; it lists all of them."""
    with maps.create("array", name="m", key_size=4, value_size=4, max_entries=3) as m:
        assert list(m.items()) == [(key(n), bytes(4)) for n in range(3)]
        m.update(key(2), b"abcd")
        assert m.lookup(key(2)) == b"abcd"
        assert m.lookup(key(3)) is None
        with pytest.raises(KernelRefused, match="E2BIG"):
            m.update(key(3), b"abcd")
        with pytest.raises(KernelRefused, match="EINVAL"):
            m.delete(key(0))


@pytest.mark.parametrize("size", [8, 12])
def test_per_cpu_array(size):
    """A value for each possible CPU, parted at their stride of 8; one value given goes to all."""
    cpus = maps.possible_cpus()
    assert cpus >= 2
    with maps.create("percpu_array", name="m", key_size=4, value_size=size, max_entries=2) as m:
        m.update(ZERO, b"x" * size)
        assert m.lookup_each_cpu(ZERO) == [b"x" * size] * cpus
        joined = b"".join(bytes([n] * size).ljust(-(-size // 8) * 8, b"\0") for n in range(cpus))
        m.update(ZERO, joined)
        assert m.lookup_each_cpu(ZERO) == [bytes([n] * size) for n in range(cpus)]
        assert [(k, m.part(v)[-1]) for k, v in m.items()] == [
            (key(0), bytes([cpus - 1] * size)),
            (key(1), bytes(size)),
        ]


def test_shared_memory():
    """A mapped array and the system call see the same bytes, both ways."""
    with maps.create("array", name="m", key_size=4, value_size=8, max_entries=600, flags=u.BPF_F_MMAPABLE) as m:
        memory = m.mmap()
        memory[8:16] = word(77)
        assert m.lookup(key(1)) == word(77)
        m.update(key(599), word(5))
        assert memory[599 * 8 : 600 * 8] == word(5)
        words = m.words()
        assert (len(words), words[1], words[599], sum(words)) == (600, 77, 5, 82)
        memory.close()


def test_freeze():
    """A frozen map cannot be written from user space any more, only read."""
    with maps.create("array", name="m", key_size=4, value_size=8, max_entries=1, flags=u.BPF_F_RDONLY_PROG) as m:
        m.update(ZERO, word(3))
        m.freeze()
        with pytest.raises(KernelRefused, match="EPERM"):
            m.update(ZERO, word(4))
        assert m.lookup(ZERO) == word(3)


def test_info_and_reopening_by_id():
    """The kernel's description of a map is what was asked for; a map opened by id is the same map."""
    with maps.create("lru_hash", name="unusual name", key_size=12, value_size=40, max_entries=64) as m:
        info = m.info()
        assert info[1:] == (u.BPF_MAP_TYPE_LRU_HASH, "unusual_name", 12, 40, 64, 0)
        with maps.open_id(info.id) as again:
            assert (again.key_size, again.value_size, again.max_entries) == (12, 40, 64)
            again.update(bytes(12), b"v" * 40)
        assert m.lookup(bytes(12)) == b"v" * 40


def test_refusals_say_what_was_tried():
    """A map that cannot be is an error in our words; a key or value of the wrong size never reaches the kernel."""
    with pytest.raises(KernelRefused, match="creating map 'm'"):
        maps.create("ringbuf", name="m", max_entries=1000)
    with pytest.raises(KernelRefused, match=r"opening map 1073741824: .*ENOENT"):
        maps.open_id(1 << 30)
    with maps.create("hash", name="m", key_size=4, value_size=8, max_entries=4) as m:
        for wrong in (
            lambda: m.lookup(b"abc"),
            lambda: m.update(ZERO, b"short"),
            lambda: m.update_all([(b"", word(1))]),
        ):
            with pytest.raises(ValueError, match="bytes"):
                wrong()
