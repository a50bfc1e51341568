"""The helper functions of the interpreter's machine, after kernel/trace/bpf_trace.c, kernel/bpf/helpers.c and
kernel/bpf/ringbuf.c; for one CPU and one task. See :mod:`klasy.bpf.interp`.
"""

from __future__ import annotations

from klasy.bpf import uapi as u
from klasy.bpf.interp_memory import Fault, RingBuffer
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.bpf.interp import Machine

    Helper = Callable[["Machine", int, int, int, int, int], int]

EFAULT, ENOSPC = 14, 28


def _map_lookup(m: Machine, handle: int, key: int, *_: int) -> int:
    map_ = m.hash_at(handle)
    region = map_.lookup(m.read(key, map_.key_size))
    return region.base if region else 0


def _map_update(m: Machine, handle: int, key: int, value: int, flags: int, *_: int) -> int:
    map_ = m.hash_at(handle)
    return map_.update(m.read(key, map_.key_size), m.read(value, map_.value_size), flags)


def _map_delete(m: Machine, handle: int, key: int, *_: int) -> int:
    map_ = m.hash_at(handle)
    return map_.delete(m.read(key, map_.key_size))


def _probe_read(space: str) -> Helper:
    def helper(m: Machine, dst: int, size: int, source: int, *_: int) -> int:
        data = getattr(m, space).read(source, size)
        m.write(dst, data if data is not None else bytes(size))  # the kernel zeroes the buffer when it fails
        return 0 if data is not None else -EFAULT

    return helper


def _probe_read_str(space: str) -> Helper:
    def helper(m: Machine, dst: int, size: int, source: int, *_: int) -> int:
        if size == 0:
            return 0
        text = getattr(m, space).read_string(source, size)
        if text is None:
            m.write(dst, bytes(size))
            return -EFAULT
        if not text.endswith(b"\0"):
            text = text[:-1] + b"\0"
        m.write(dst, text)
        return len(text)

    return helper


def _comm(m: Machine, dst: int, size: int, *_: int) -> int:
    m.write(dst, m.comm[: size - 1].ljust(size, b"\0"))
    return 0


def _ring_reserve(m: Machine, handle: int, size: int, *_: int) -> int:
    region = m.ring_at(handle).reserve(size)
    return region.base if region else 0


def _ring_close(keep: bool) -> Helper:
    def helper(m: Machine, address: int, *_: int) -> int:
        for map_ in m.maps.values():
            if isinstance(map_, RingBuffer) and address in map_.open:
                map_.close(address, keep)
                return 0
        raise Fault(f"no record is reserved at {address:#x}")

    return helper


def _ring_output(m: Machine, handle: int, data: int, size: int, *_: int) -> int:
    ring = m.ring_at(handle)
    region = ring.reserve(size)
    if region is None:
        return -ENOSPC
    region.data[:] = m.read(data, size)
    ring.close(region.base, True)
    return 0


def _random(m: Machine, *_: int) -> int:
    m.random = m.random * 1103515245 + 12345 & 0xFFFFFFFF
    return m.random


_DEFAULTS: dict[str, Helper] = {
    "map_lookup_elem": _map_lookup,
    "map_update_elem": _map_update,
    "map_delete_elem": _map_delete,
    "probe_read_kernel": _probe_read("kernel"),
    "probe_read_user": _probe_read("user"),
    "probe_read_kernel_str": _probe_read_str("kernel"),
    "probe_read_user_str": _probe_read_str("user"),
    "ktime_get_ns": lambda m, *_: m.now,
    "get_current_task": lambda m, *_: m.task,
    "get_current_task_btf": lambda m, *_: m.task_struct.base,
    "get_current_pid_tgid": lambda m, *_: m.pid_tgid,
    "get_current_uid_gid": lambda m, *_: m.uid_gid,
    "get_current_comm": _comm,
    "get_smp_processor_id": lambda m, *_: m.cpu,
    "get_current_cgroup_id": lambda m, *_: m.cgroup,
    "get_current_ancestor_cgroup_id": lambda m, level, *_: m.ancestors[level] if level < len(m.ancestors) else 0,
    "get_attach_cookie": lambda m, *_: m.cookie,
    "get_func_ip": lambda m, *_: m.function_ip,
    "get_prandom_u32": _random,
    "ringbuf_reserve": _ring_reserve,
    "ringbuf_submit": _ring_close(True),
    "ringbuf_discard": _ring_close(False),
    "ringbuf_output": _ring_output,
}

#: What a Machine starts with, by helper number.
DEFAULT_HELPERS: dict[int, Helper] = {u.helper_number(name): helper for name, helper in _DEFAULTS.items()}
