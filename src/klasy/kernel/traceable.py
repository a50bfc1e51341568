"""What can be probed, and what cannot and why: the kernel's own rules, so that they are known before anything is tried.

The kernel answers most of these attempts with a bare EINVAL. The rules were read in kernel/kprobes.c,
kernel/trace/trace_kprobe.c, arch/x86/kernel/kprobes/core.c, kernel/bpf/verifier.c and kernel/bpf/btf.c of Linux 6.1 and
6.12, and are compared with the kernel's answers in tests/kernel/test_kernel_traceable.py.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from klasy.btf.types import Array, Enum, Float, FuncProto, Int, Ptr, Struct, Union
from klasy.kernel import arch_x86_64 as arch
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.model import CallKind, Clone, Refusal, Way
from klasy.kernel.patchsites import PatchSites
from klasy.plain import TYPE_CHECKING, cached_property

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.btf.types import Type
    from klasy.kernel.image import KernelImage
    from klasy.kernel.model import CallSite, Function

# Functions that a BPF trampoline, or the entry into a program, itself calls before it can notice that it runs already.
# btf_id_deny in kernel/bpf/verifier.c; not all kernels list all of them (__rcu_read_lock: since Linux 6.2), and none
# what __rcu_read_unlock goes on into: a trampoline there comes upon itself until the stack is full, and all dies.
TRAMPOLINE_USES = frozenset(
    (
        "migrate_disable",
        "migrate_enable",
        "rcu_read_unlock_strict",
        "preempt_count_add",
        "preempt_count_sub",
        "__rcu_read_lock",
        "__rcu_read_unlock",
        "rcu_read_unlock_special",
    )
)

# What the programs that klasy makes run through in the kernel, and little else does: their helpers, the maps, the ring
# buffer, the walk over the stack. Where several of these have trampolines, the program of each runs in those of all
# others, as often as they come by, and so on: eight functions keep a processor busy for ever with one hit. Kprobes'
# programs do not run inside one another. What is under locks besides: klasy.match.execution.
RUN_BY_PROGRAMS = frozenset(
    (
        "__bpf_get_stack",
        "__bpf_get_stackid",
        "__htab_map_lookup_elem",
        "__htab_percpu_map_update_elem",
        "__irq_work_queue_local",
        "__is_insn_slot_addr",
        "__kernel_text_address",
        "__module_address",
        "__module_text_address",
        "__orc_find",
        "__unwind_start",
        "apic_mem_wait_icr_idle",
        "arch_irq_work_raise",
        "array_map_lookup_elem",
        "array_map_update_elem",
        "bpf_get_current_ancestor_cgroup_id",
        "bpf_get_current_cgroup_id",
        "bpf_get_current_comm",
        "bpf_get_current_pid_tgid",
        "bpf_get_current_task",
        "bpf_get_current_uid_gid",
        "bpf_get_func_arg",
        "bpf_get_func_ret",
        "bpf_get_prandom_u32",
        "bpf_get_smp_processor_id",
        "bpf_get_stack",
        "bpf_get_stack_pe",
        "bpf_get_stack_raw_tp",
        "bpf_get_stack_tp",
        "bpf_get_stackid",
        "bpf_get_stackid_pe",
        "bpf_get_stackid_raw_tp",
        "bpf_get_stackid_tp",
        "bpf_ksym_find",
        "bpf_ktime_get_ns",
        "bpf_map_delete_elem",
        "bpf_map_lookup_elem",
        "bpf_map_update_elem",
        "bpf_probe_read_kernel",
        "bpf_probe_read_kernel_str",
        "bpf_probe_read_user",
        "bpf_probe_read_user_str",
        "bpf_ringbuf_commit",
        "bpf_ringbuf_discard",
        "bpf_ringbuf_output",
        "bpf_ringbuf_reserve",
        "bpf_ringbuf_submit",
        "bpf_user_rnd_u32",
        "build_id_parse",
        "copy_from_kernel_nofault",
        "copy_from_kernel_nofault_allowed",
        "copy_from_user_nofault",
        "default_send_IPI_self",
        "get_callchain_entry",
        "get_perf_callchain",
        "get_stack_info",
        "htab_map_delete_elem",
        "htab_map_lookup_elem",
        "htab_map_update_elem",
        "htab_percpu_map_lookup_elem",
        "htab_percpu_map_update_elem",
        "in_gate_area_no_mm",
        "irq_work_queue",
        "is_bpf_text_address",
        "is_module_text_address",
        "is_uprobe_at_func_entry",
        "kernel_text_address",
        "ktime_get_mono_fast_ns",
        "lookup_nulls_elem_raw",
        "mod_find",
        "native_apic_wait_icr_idle",
        "nmi_uaccess_okay",
        "pcpu_freelist_pop",
        "pcpu_freelist_push",
        "percpu_array_map_lookup_elem",
        "perf_callchain_kernel",
        "perf_callchain_user",
        "put_callchain_entry",
        "stack_access_ok",
        "stack_map_get_build_id_offset",
        "strncpy_from_kernel_nofault",
        "strncpy_from_user_nofault",
        "unwind_get_return_address",
        "unwind_next_frame",
        "x2apic_send_IPI_self",
    )
)

# To take a process's stack the kernel locks the process's memory. Where interrupts are off it leaves the unlocking to
# an irq_work, of which a processor has one (bpf_mmap_unlock_get_irq_work() and bpf_mmap_unlock_mm() in
# kernel/bpf/mmap_unlock_work.h). These are what it runs through between looking whether that is free and taking it:
# mappings, files' build ids, the page cache; events, too. A program that takes such a stack there finds it free as
# well, and one of the two locks is never given back: the process cannot end, nor map memory, any more.
RUN_FOR_USER_STACKS = frozenset(
    (
        "PageHeadHuge",
        "__build_id_parse",
        "__filemap_get_folio",
        "__folio_put",
        "__mmap_lock_do_trace_acquire_returned",
        "__mmap_lock_do_trace_start_locking",
        "__put_devmap_managed_page_refs",
        "__rcu_read_lock",
        "__rcu_read_unlock",
        "__traceiter_ma_read",
        "__traceiter_mmap_lock_acquire_returned",
        "__traceiter_mmap_lock_start_locking",
        "bpf_find_vma",
        "build_id_parse",
        "build_id_parse_nofault",
        "down_read_trylock",
        "filemap_get_entry",
        "find_vma",
        "freader_fetch",
        "freader_get_folio",
        "irq_work_queue",
        "maple_tree:ma_read",
        "mas_next_entry",
        "mas_next_slot",
        "mmap_lock:mmap_lock_acquire_returned",
        "mmap_lock:mmap_lock_start_locking",
        "mt_find",
        "mtree_range_walk",
        "pagecache_get_page",
        "parse_build_id",
        "parse_build_id_buf",
        "stack_map_get_build_id_offset",
        "vma_is_secretmem",
        "xas_load",
    )
)

# Functions that do not return: what a trampoline or a changed return address waits for never comes.
# tools/objtool/noreturns.h; newer kernels refuse fexit on them ("bpf: Reject attaching fexit/fmod_ret to __noreturn
# functions", Linux 6.15), older ones let it be done and leak.
NORETURN = frozenset(
    (
        "__fortify_panic",
        "__ia32_sys_exit",
        "__ia32_sys_exit_group",
        "__kunit_abort",
        "__module_put_and_kthread_exit",
        "__reiserfs_panic",
        "__stack_chk_fail",
        "__tdx_hypercall_failed",
        "__x64_sys_exit",
        "__x64_sys_exit_group",
        "arch_call_rest_init",
        "arch_cpu_idle_dead",
        "cpu_bringup_and_idle",
        "cpu_startup_entry",
        "do_exit",
        "do_group_exit",
        "do_task_dead",
        "ex_handler_msr_mce",
        "hlt_play_dead",
        "hv_ghcb_terminate",
        "kthread_complete_and_exit",
        "kthread_exit",
        "kunit_try_catch_throw",
        "machine_real_restart",
        "make_task_dead",
        "mpt_halt_firmware",
        "nmi_panic_self_stop",
        "panic",
        "panic_smp_self_stop",
        "rest_init",
        "rewind_stack_and_make_dead",
        "sev_es_terminate",
        "snp_abort",
        "start_kernel",
        "stop_this_cpu",
        "x86_64_start_kernel",
        "x86_64_start_reservations",
        "xen_cpu_bringup_again",
        "xen_start_kernel",
    )
)

# kretprobe_blacklist in arch/x86/kernel/kprobes/core.c: its stack is another one when it returns
_NO_RETURN_PROBE = frozenset(("__switch_to",))

_OUTSIDE = Refusal("not-in-function", "the address does not lie in the function")
BLACKLIST = Refusal("blacklist", "it is on the kernel's list of what must not be probed (probes depend on it)")
NOTRACE = Refusal(
    "notrace",
    "it was compiled without a hook for tracing (notrace, which 'inline' implies in the kernel), and the kernel lets "
    "nothing in such a function be probed",
)
_NO_BOUNDARY = Refusal("not-an-instruction", "no instruction begins at this address")
_STATIC_CALL = Refusal("static-call", "it is a static call, which the kernel rewrites as it runs and lets nobody probe")
_JUMP_LABEL = Refusal("jump-label", "it is a jump label, which the kernel rewrites as it runs and lets nobody probe")
_BUG = Refusal("bug", "it is a BUG() or WARN() trap, which the kernel lets nobody probe")
_NO_ENTRY = Refusal("no-entry", "it is a piece of another function, without an entry of its own")
_NOT_ENTRY = Refusal("not-an-entry", "only a function's entry can be probed this way")
_NO_BTF = Refusal("no-btf", "the kernel does not describe its parameters (no BTF)")
_CLONE = Refusal("clone", "the compiler changed its parameters, so the kernel does not describe them (no BTF)")
_DUPLICATE = Refusal("duplicate-name", "several functions have this name, and the kernel would take the first of them")
_DIFFERENT = Refusal("duplicate-name", "several functions have this name, with different parameters")
_VARIADIC = Refusal("variadic", "it takes a variable number of arguments")
_BY_VALUE = Refusal(
    "struct-by-value", "it takes or returns a struct or union by value in a way that trampolines cannot"
)
_TRAMPOLINE = Refusal("trace-internal", "BPF trampolines call it themselves")
_RUN_BY_PROGRAMS = Refusal(
    "run-by-programs", "klasy's programs run through it, and a trampoline's program would run inside each of them"
)
_NORETURN = Refusal("noreturn", "it never returns")
_MEMORY_CALL = Refusal(
    "indirect-memory", "it is a call or jump through memory, which the kernel cannot emulate in a probe"
)
_HOLE = Refusal(
    "end-of-module",
    "it lies in the last function of its module, where this kernel would crash: to place a probe it reads on behind it",
)
_EXCEPTIONAL = Refusal("not-emulated", "it is an instruction that the kernel cannot execute in a probe")


class Traceability:
    """Answers for one kernel."""

    def __init__(self, kernel: KernelImage) -> None:
        self._kernel = kernel
        self._notrace: dict[int, bool] = {}
        self._patched: dict[str | None, PatchSites] = {}
        self._closed: dict[int, Refusal | None] = {}

    def refusal(self, address: int, function: Function, way: Way) -> Refusal | None:
        """Why an address of a function cannot be probed in a way, or None."""
        if not function.address <= address < function.end:
            return _OUTSIDE
        if way is Way.KPROBE:
            return self._kprobe(address, function)
        if address != function.address:
            return _NOT_ENTRY
        if function.clone is Clone.COLD:
            return _NO_ENTRY
        if way is Way.KRETPROBE:
            if function.name in NORETURN:
                return _NORETURN
            return BLACKLIST if function.name in _NO_RETURN_PROBE else self._kprobe(address, function)
        if way is Way.FEXIT and function.name in NORETURN:
            return _NORETURN
        return self._trampoline(function)

    # --- kprobes

    def site_refusal(self, site: CallSite) -> Refusal | None:
        """Why a call instruction cannot be probed, or None.

        Nothing is decoded that was to find it; and no jump to another function is a jump label, which goes on in its
        own.
        """
        function, address = site.caller, site.address
        if site.kind is CallKind.INDIRECT or address < function.address + arch.ENTRY_BYTES:
            return self._kprobe(address, function)
        if function.address not in self._closed:
            self._closed[function.address] = self._closed_to_kprobes(function)
        refusal = self._closed[function.address]
        if refusal is BLACKLIST or self.listed(address):
            return BLACKLIST
        return refusal or (_STATIC_CALL if address in self._sites_in(function.module).static_calls else None)

    def _closed_to_kprobes(self, function: Function) -> Refusal | None:
        """Why no instruction of a function but its first may be probed, or None."""
        base, dot, _ = self._first_name(function).partition(".")
        if dot and base in self._listed_names and self._base_is_listed(function):
            return BLACKLIST
        if self.notrace(function):
            return NOTRACE
        if function.module is not None and function.end == self._kernel.symbols[function.module].end:
            code = self._kernel.text(function.address, function.size)
            return _HOLE if self._ends_at_a_hole(function, code) else None
        return None

    def _kprobe(self, address: int, function: Function) -> Refusal | None:
        if self._blacklisted(address, function):
            return BLACKLIST
        if self.notrace(function):
            return NOTRACE
        offset = address - function.address
        entry = self._kernel.text(function.address, min(arch.ENTRY_BYTES, function.size))
        hook = arch.ftrace_offset(entry) if self._kernel.has_ftrace_site(function.address) else None
        if hook is not None and offset in (0, hook[0]):
            return None  # ftrace's site, which the kernel probes without replacing an instruction
        code = self._kernel.text(function.address, function.size)
        if insn.boundary(code, 0, offset) != offset or insn.length(code, offset) is None:
            return _NO_BOUNDARY
        if self._ends_at_a_hole(function, code):
            return _HOLE
        return self._rewritten(address, function.module) or _unprobeable(code, offset)

    def _ends_at_a_hole(self, function: Function, code: bytes) -> bool:
        """Whether the kernel may read unmapped memory behind a function when an instruction of it is probed.

        can_optimize() measures all instructions of the probed function. The last function of a module ends, for the
        kernel, with the page, and what fills the page up is zero bytes, two of which make an instruction: where their
        number is odd, its second byte is read from behind the module's text. That is mapped where the module's data
        follow, and not since Linux 6.4 (ac3b43283923, "module: replace module_layout with module_memory"): there
        the kernel dies of a page fault. Seen on Debian's 6.12.95 with a probe in the module stp.
        """
        if function.module is None or function.end != self._kernel.symbols[function.module].end:
            return False
        if insn.boundary(code, 0, len(code)) == len(code):
            return False
        behind = range(function.end, function.end + 0x1000)
        return not any(start in behind for start in self._kernel.module_sections(function.module).values())

    @cached_property
    def _ranges(self) -> tuple[list[int], list[int]]:
        """The blacklist: starts, ascending, and ends."""
        ranges = []
        for line in self._kernel.blacklist().splitlines():
            start, _, end = line.partition(b"\t")[0].partition(b"-")
            ranges.append((int(start, 16), int(end, 16)))
        ranges.sort()
        return [start for start, _ in ranges], [end for _, end in ranges]

    def listed(self, address: int) -> bool:
        """Whether an address is on the blacklist."""
        starts, ends = self._ranges
        at = bisect_right(starts, address) - 1
        return at >= 0 and address < ends[at]

    def _blacklisted(self, address: int, function: Function) -> bool:
        """Whether an address, or the function from which its piece was split off, is on the blacklist."""
        return self.listed(address) or self._base_is_listed(function)

    def _base_is_listed(self, function: Function) -> bool:
        base = self._base_of_piece(function)
        return base is not None and self.listed(base)

    @cached_property
    def _listed_names(self) -> frozenset[str]:
        """The names of all functions that begin where the blacklist says something, each up to its dot.

        To look a name up among all takes long, and most pieces are those of functions that are not listed.
        """
        found: set[str] = set()
        starts, ends = self._ranges
        for symbols in self._kernel.symbols.values():
            inside = slice(bisect_left(starts, symbols.base), bisect_left(starts, symbols.end))
            for start, end in zip(starts[inside], ends[inside], strict=True):
                found.update([name.partition(".")[0] for name in symbols.names_between(start, end)])
        return frozenset(found)

    def notrace(self, function: Function) -> bool:
        """Whether the kernel holds a function for untraceable: neither it nor what it is a piece of has a hook."""
        known = self._notrace.get(function.address)
        if known is None:
            known = not self._kernel.has_hook(function)
            if known:
                base = self._base_of_piece(function)
                known = base is None or not self._kernel.has_ftrace_site(base)
            self._notrace[function.address] = known
        return known

    def _base_of_piece(self, function: Function) -> int | None:
        """What the kernel takes for the function of a suffixed symbol: the first symbol with the name up to the dot."""
        name = self._first_name(function)
        base, dot, _ = name.partition(".")
        if not dot or not base:
            return None
        tables = self._kernel.symbols
        for module in dict.fromkeys((None, function.module, *tables)):
            found = tables[module].first_named(base)
            if found is not None:
                return tables[module].address(found)
        return None

    def _first_name(self, function: Function) -> str:
        """The name that the kernel gives to a function that has several."""
        return self._kernel.first_name(function)

    def _rewritten(self, address: int, module: str | None) -> Refusal | None:
        sites = self._sites_in(module)
        if address in sites.static_calls:
            return _STATIC_CALL
        return _JUMP_LABEL if address in sites.jump_labels else None

    def may_fault(self, address: int, function: Function) -> bool:
        """Whether the kernel has a place to go on at when an instruction of a function faults."""
        return address in self._sites_in(function.module).faulting

    def _sites_in(self, module: str | None) -> PatchSites:
        sites = self._patched.get(module)
        if sites is None:
            sites = self._patched[module] = PatchSites(self._kernel, module)
        return sites

    # --- trampolines

    def _trampoline(self, function: Function) -> Refusal | None:
        if function.name in TRAMPOLINE_USES:
            return _TRAMPOLINE
        if function.name in RUN_BY_PROGRAMS:
            return _RUN_BY_PROGRAMS
        if function.clone is not Clone.NONE:
            return _CLONE
        if not self._kernel.has_ftrace_site(function.address):
            return NOTRACE  # before what has to be looked for: of thousands many are such
        btf = function.btf
        if btf is None:
            return _NO_BTF
        if function.proto is None:
            return _DIFFERENT if btf.find_func(function.name) is not None else _NO_BTF
        if function.duplicates > 1 or (function.module and self._kernel.symbols[None].named(function.name)):
            return _DUPLICATE
        return self._prototype(btf, btf.proto(function.proto))

    def _prototype(self, btf: Btf, proto: FuncProto) -> Refusal | None:
        if proto.variadic:
            return _VARIADIC
        registers = 0
        for param in proto.params:
            size = _value_size(btf.resolved(param.type_id))
            if not 0 < size <= arch.LONGEST_STRUCT_IN_REGISTERS:
                return _BY_VALUE
            registers += (size + arch.WORD - 1) // arch.WORD
        if isinstance(btf.resolved(proto.ret), (Struct, Float, Array)):
            return _BY_VALUE
        most = self._kernel.trampoline_registers
        if registers > most:
            return Refusal(
                "too-many-args", f"its parameters take {registers} registers, and a BPF trampoline saves {most} here"
            )
        return None


def _value_size(found: Type) -> int:
    """Size of a parameter as a trampoline takes it, 0 for what it cannot (btf_distill_func_proto)."""
    if isinstance(found, Ptr):
        return arch.WORD
    if isinstance(found, Union):
        return 0
    return found.size if isinstance(found, (Int, Enum, Struct)) else 0


def _unprobeable(code: bytes, offset: int) -> Refusal | None:
    """Why the kernel cannot execute an instruction in a probe (prepare_emulation), or None."""
    at = insn.opcode_offset(code, offset)
    opcode, second = code[at], code[at + 1] if at + 1 < len(code) else 0
    reg, in_register = second >> 3 & 7, second >= 0xC0
    if opcode == 0xFF and reg in (3, 5):
        return _EXCEPTIONAL  # far call, far jump
    if opcode == 0xFF and reg in (2, 4) and not in_register:
        return _MEMORY_CALL
    if opcode == 0x0F and second == 0x0B:
        return _BUG
    if opcode == 0x0F and second == 0x01 and len(code) > at + 2 and code[at + 2] >> 3 == 0x18:
        return _EXCEPTIONAL  # VMCALL, VMLAUNCH and the like
    if opcode == arch.BREAKPOINT or opcode in (0xCD, 0xCF) or (opcode == 0x8E and reg == 2):
        return _EXCEPTIONAL  # INT3, INT, IRET; a new stack segment masks the step behind it
    return None
