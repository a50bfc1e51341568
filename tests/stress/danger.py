"""What the kernel and klasy's own programs stand on, woven in every way, under load: nothing hangs, dies or complains.

A machine must bear whatever it is asked to log. The most dangerous places are those that a program of klasy's runs
through itself or is called from: locks, RCU, the scheduler, time, interrupts, BPF, the patching of text, printk,
memory, tasks, processors that come and go. Of their functions, up to sixteen at a time, some are woven by several
aspects at once that log, keep states, take stacks and see calls, beside an aspect on what always happens, while the
load makes contention on all processors.

Where a kernel hangs the guest's time runs out; the last line printed tells what was woven.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from support.inventory import KernelLog, inventory, settled

from klasy.api import open_reader
from klasy.errors import InputError
from klasy.kernel.traceable import RUN_FOR_USER_STACKS
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave
from stress.churn import busy_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.synchronize import Lock

    from klasy.backend.artifact import Artifact
    from klasy.kernel.live import LiveKernel
    from klasy.weaver.woven import WovenAspect
    from stress import Figures

SECONDS = 3.0  # under load; one half without, one half with somebody who reads the logs
SETTLE = 60.0
AT_ONCE = 16  # functions
MOST = 1_500  # join points: the calls of kfree or of a spin lock, thousands, are woven in minutes
# Those that one kernel does not have are left out there.
FUNCTIONS = {
    "bpf": """
        __bpf_ringbuf_reserve bpf_ringbuf_reserve bpf_ringbuf_submit bpf_ringbuf_commit bpf_ringbuf_discard
        bpf_ringbuf_notify bpf_ringbuf_output htab_map_update_elem htab_map_delete_elem __htab_map_lookup_elem
        htab_map_lookup_elem alloc_htab_elem free_htab_elem __pcpu_freelist_pop __pcpu_freelist_push
        array_map_lookup_elem array_map_update_elem percpu_array_map_lookup_elem bpf_get_current_comm
        bpf_probe_read_kernel bpf_probe_read_kernel_str copy_from_kernel_nofault copy_from_kernel_nofault_allowed
        strncpy_from_kernel_nofault bpf_ktime_get_ns bpf_get_stackid bpf_get_stack __bpf_get_stack get_perf_callchain
        perf_callchain_kernel unwind_next_frame __unwind_start get_callchain_entry put_callchain_entry __bpf_prog_enter
        __bpf_prog_enter_recur __bpf_prog_exit __bpf_prog_exit_recur trace_call_bpf bpf_trace_run1 bpf_trace_run2
        kprobe_perf_func kprobe_dispatcher kprobe_multi_link_handler kprobe_ftrace_handler opt_pre_handler
        optimized_callback rethook_trampoline_handler rethook_try_get rethook_hook fprobe_handler aggr_pre_handler
        get_kprobe perf_trace_buf_alloc perf_tp_event perf_swevent_event perf_swevent_get_recursion_context
        arch_ftrace_ops_list_func ftrace_ops_assist_func bpf_map_lookup_elem bpf_map_update_elem bpf_map_delete_elem
        is_bpf_text_address bpf_address_lookup kernel_text_address __kernel_text_address bpf_get_current_pid_tgid
        bpf_get_smp_processor_id bpf_get_current_cgroup_id bpf_task_storage_get bpf_obj_free_fields
        check_and_free_fields bpf_copy_from_user copy_from_user_nofault bpf_probe_read_user bpf_probe_read_user_str
        strncpy_from_user_nofault perf_callchain_user bpf_prog_run_array bpf_prog_put bpf_map_free_deferred
        bpf_trampoline_update __bpf_trampoline_link_prog bpf_prog_free_deferred htab_lru_map_update_elem bpf_long_memcpy
        orc_find bpf_ktime_get_mono_fast_ns inc_misses_counter bpf_prog_inc_misses_counter ring_buffer_wakeup
        irq_work_queue_on
    """,
    "irq": """
        handle_irq_event __handle_irq_event_percpu handle_edge_irq irq_enter_rcu irq_exit_rcu __do_softirq
        handle_softirqs __raise_softirq_irqoff raise_softirq tasklet_action __common_interrupt do_nmi nmi_handle
        default_do_nmi do_user_addr_fault handle_mm_fault do_kern_addr_fault do_int3 notify_die
        atomic_notifier_call_chain irq_work_queue irq_work_run irq_work_run_list irq_work_single arch_irq_work_raise
        __irq_work_queue_local native_apic_msr_write native_apic_msr_eoi_write native_apic_mem_eoi x2apic_send_IPI_self
        x2apic_send_IPI default_send_IPI_self __sysvec_irq_work __sysvec_apic_timer_interrupt __sysvec_call_function
        native_apic_mem_write apic_ack_edge apic_mem_wait_icr_idle default_send_IPI_single_phys flat_send_IPI_mask
        native_smp_send_reschedule native_send_call_func_single_ipi smp_call_function_many_cond smp_call_function_single
        on_each_cpu_cond_mask fixup_exception ex_handler_default ex_get_fixup_type search_exception_tables
        search_bpf_extables search_extable exc_page_fault fixup_bug
    """,
    "lock": """
        _raw_spin_lock _raw_spin_lock_irqsave _raw_spin_lock_irq _raw_spin_lock_bh _raw_spin_unlock
        _raw_spin_unlock_irqrestore _raw_spin_unlock_irq _raw_spin_trylock _raw_read_lock _raw_write_lock_irq
        native_queued_spin_lock_slowpath queued_read_lock_slowpath queued_write_lock_slowpath mutex_lock mutex_unlock
        __mutex_lock_slowpath __mutex_unlock_slowpath down_read up_read down_write up_write down_read_trylock rwsem_wake
        osq_lock futex_wait futex_wake futex_q_lock mutex_spin_on_owner rt_mutex_lock wake_q_add
    """,
    "sched": """
        schedule __schedule pick_next_task_fair dequeue_task_fair enqueue_task_fair update_curr update_rq_clock
        sched_clock sched_clock_cpu local_clock try_to_wake_up ttwu_do_activate finish_task_switch __switch_to
        switch_mm_irqs_off load_balance scheduler_tick sched_tick task_tick_fair set_next_entity put_prev_entity
        resched_curr do_idle cpuidle_enter_state default_idle_call native_sched_clock tick_nohz_idle_enter
        account_process_tick raw_spin_rq_lock_nested sched_ttwu_pending __smp_call_single_queue
        flush_smp_call_function_queue generic_smp_call_function_single_interrupt migrate_task_rq_fair migration_cpu_stop
        wake_up_process default_wake_function __wake_up autoremove_wake_function select_task_rq_fair set_task_cpu
        pick_next_entity pick_eevdf update_load_avg set_user_nice yield_task_fair pick_next_task_idle put_prev_task_fair
        set_next_task_fair psi_task_switch sched_set_stop_task
    """,
    "time": """
        ktime_get ktime_get_mono_fast_ns ktime_get_real_ts64 ktime_get_update_offsets_now timekeeping_advance
        update_wall_time hrtimer_interrupt hrtimer_start_range_ns __hrtimer_run_queues tick_sched_timer
        run_timer_softirq call_timer_fn __mod_timer add_timer read_tsc read_hpet clocksource_watchdog tick_program_event
        lapic_next_event lapic_next_deadline clockevents_program_event do_timer update_process_times tick_nohz_stop_tick
        tick_irq_enter hrtimer_wakeup ktime_get_with_offset timekeeping_update update_vsyscall get_next_timer_interrupt
        hpet_clkevt_set_next_event sched_clock_tick native_read_tsc tk_clock_read ktime_get_coarse_real_ts64
    """,
    "rcu": """
        __rcu_read_lock __rcu_read_unlock rcu_sched_clock_irq rcu_core rcu_note_context_switch call_rcu
        __call_rcu_common rcu_report_qs_rnp rcu_is_watching rcu_read_unlock_special rcu_qs rcu_segcblist_enqueue
        rcu_do_batch rcu_gp_kthread_wake synchronize_rcu migrate_disable migrate_enable rcu_cblist_dequeue
        kfree_rcu_work kvfree_call_rcu synchronize_srcu __srcu_read_lock __srcu_read_unlock
    """,
    "text": """
        text_poke text_poke_bp text_poke_bp_batch smp_text_poke_batch_add __text_poke text_poke_queue text_poke_finish
        arch_jump_label_transform jump_label_update __jump_label_update static_key_slow_inc arch_static_call_transform
        __static_call_update ftrace_make_call ftrace_modify_all_code ftrace_replace_code ftrace_run_update_code
        ftrace_set_filter_ip register_kprobe unregister_kprobe arm_kprobe disarm_kprobe kprobe_optimizer arch_arm_kprobe
        arch_optimize_kprobes do_optimize_kprobes register_ftrace_function bpf_arch_text_poke do_sync_core
        sync_core_before_usermode poke_int3_handler stop_machine stop_machine_cpuslocked cpu_stop_queue_work
        multi_cpu_stop cpu_stopper_thread cpu_stop_signal_done set_memory_rox set_memory_x module_alloc execmem_alloc
        load_module free_module do_init_module
    """,
    "printk": """
        vprintk_emit console_unlock _printk vprintk vprintk_store prb_reserve prb_commit prb_final_commit prb_read_valid
        serial8250_console_write serial8250_console_putchar wake_up_klogd console_trylock console_flush_all devkmsg_emit
        devkmsg_write uart_console_write io_serial_out io_serial_in mem_serial_out wait_for_lsr vt_console_print
        hvc_console_print nbcon_driver_try_acquire
    """,
    "alloc": """
        kmalloc_trace __kmalloc kmem_cache_alloc kmem_cache_free kfree ___slab_alloc __slab_free get_page_from_freelist
        __alloc_pages __alloc_pages_noprof free_unref_page rmqueue rmqueue_bulk free_pcppages_bulk __free_one_page
        pcpu_alloc free_percpu vmalloc __vmalloc_node_range vfree new_slab allocate_slab __slab_alloc
        kmem_cache_alloc_noprof __kmalloc_noprof memcg_slab_post_alloc_hook __memcg_slab_post_alloc_hook mod_memcg_state
        __mod_memcg_lruvec_state __mod_node_page_state mod_objcg_state refill_obj_stock drain_obj_stock try_charge_memcg
        clear_page_rep clear_page_orig get_random_u32 memset memcpy memcg_account_kmem __kmem_cache_alloc_node
        put_cpu_partial deactivate_slab
    """,
    "task": """
        do_exit exit_mm release_task do_task_dead begin_new_exec exec_mmap load_elf_binary copy_process wake_up_new_task
        sched_fork ret_from_fork schedule_tail free_task __put_task_struct exit_notify wait_consider_task acct_collect
        exit_files dup_task_struct copy_thread mm_init mmput __mmput dup_mm exit_mmap send_signal_locked
        __send_signal_locked get_signal dequeue_signal complete_signal do_send_sig_info arch_do_signal_or_restart
        setup_rt_frame x64_setup_rt_frame signal_wake_up_state recalc_sigpending restore_sigcontext force_sig_fault
        kill_pid_info sigprocmask fpu__clone switch_fpu_return restore_fpregs_from_fpstate save_fpregs_to_fpstate
        copy_fpstate_to_sigframe fpregs_assert_state_consistent exit_to_user_mode_prepare exit_to_user_mode_loop
        syscall_trace_enter syscall_exit_work syscall_enter_from_user_mode syscall_exit_to_user_mode do_syscall_64
        blkcg_maybe_throttle_current task_work_run mem_cgroup_handle_over_high rseq_ip_fixup __rseq_handle_notify_resume
        prepare_exit_to_usermode irqentry_enter irqentry_exit irqentry_nmi_enter
    """,
    "mm": """
        do_anonymous_page do_wp_page flush_tlb_func native_flush_tlb_multi flush_tlb_mm_range tlb_finish_mmu
        ptep_clear_flush tlb_flush_mmu __pte_alloc zap_pte_range native_set_pte set_pte_vaddr lru_add_drain
        folio_add_lru lru_gen_add_folio folio_batch_move_lru count_memcg_events __count_memcg_events mt_find mas_walk
        mas_store_prealloc vma_merge do_mmap unmap_region native_write_cr3 native_flush_tlb_one_user native_write_msr
        native_read_msr do_page_fault spurious_kernel_fault lock_vma_under_rcu find_vma __get_user_nocheck_8
        copy_user_generic_string clear_user_original _copy_to_user _copy_from_user rep_movs_alternative
    """,
    "hotplug": """
        cpuhp_invoke_callback cpuhp_thread_fun _cpu_up _cpu_down start_secondary cpu_startup_entry do_boot_cpu
        native_cpu_up play_dead native_play_dead take_cpu_down cpuhp_report_idle_dead smp_callin notify_cpu_starting
        set_cpu_online sched_cpu_dying rcu_cpu_starting rcutree_report_cpu_starting perf_event_init_cpu
        perf_event_exit_cpu identify_secondary_cpu cpu_init lapic_online fpu__init_cpu ap_starting
        tsc_store_and_check_tsc_adjust irq_migrate_all_off_this_cpu fixup_irqs hw_breakpoint_restore
        native_load_gs_index load_direct_gdt hrtimers_cpu_dying tick_cleanup_dead_cpu __cpu_disable native_cpu_disable
    """,
}
_BASE = "execution(vfs_write) || execution(try_to_wake_up) || execution(handle_mm_fault)"
BESIDE = f"""aspect beside {{
    u64 start[tid]; count at[comm, stack()]; hist took[cpu];
    before(): {_BASE} {{
        start[tid] = now; at[comm, stack()]++;
        log(comm, pid, stack(), ustack(), joinpoint.function, cgroup); log("%s %d", comm, cpu);
    }}
    after(): {_BASE} {{ if (start[tid]) {{ took[cpu].add(now - start[tid]); delete start[tid]; }} log("%s", comm); }}
}}"""
LOGS = "aspect logs { before(): EXECUTION { log(comm, pid); } after(): EXECUTION { log(cpu); } }"
KEEPS = """aspect keeps {
    u64 start[tid]; hist spent[comm]; count at[pid, cpu];
    before(): EXECUTION { start[tid] = now; at[pid, cpu]++; }
    after(): EXECUTION {
        if (start[tid]) { spent[comm].add(now - start[tid]); delete start[tid]; log("%s %u", comm, cpu); }
    }
}"""
STACKS = "aspect stacks { before(): EXECUTION { log(stack(), ustack()); } }"
CALLS = "aspect calls { before(): CALL { log(joinpoint.function); } after(): CALL { log(stack()); } }"
TOGETHER = {"logs": (LOGS,), "keeps": (KEEPS,), "both": (LOGS, KEEPS), "stacks and calls": (STACKS, CALLS)}


class Part(NamedTuple):
    """What is woven at once."""

    name: str
    functions: tuple[str, ...]
    aspects: tuple[str, ...]


def _parts() -> list[Part]:
    found = []
    for group, text in FUNCTIONS.items():
        names = text.split()
        for at in range(0, len(names), AT_ONCE):
            some = tuple(names[at : at + AT_ONCE])
            found += [Part(f"{group} {at}: {how}", some, aspects) for how, aspects in TOGETHER.items()]
    return found


FULL, SMALL = len(_parts()), 1  # parts


def run(size: int, seed: int) -> Figures:
    """``size`` parts: all, or as many drawn at random."""
    from klasy.kernel.live import LiveKernel

    print(f"danger: seed {seed}")
    kernel = LiveKernel()
    parts = _parts()
    if size < len(parts):
        parts = random.Random(seed).sample(parts, size)
    sums: Counter[str] = Counter()
    slowest: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with ExitStack() as stack:
        log = KernelLog()
        stack.callback(log.close)
        stack.callback(unweave)
        _modules_once()
        nothing = inventory()
        stack.enter_context(busy_kernel())
        stack.enter_context(_contention())
        for number, part in enumerate(parts, 1):
            artifacts = _made(part, kernel, reasons)
            points = sum(len(artifact.plan.joinpoints) for artifact in artifacts)
            print(f"    {number}: {part.name}, {points} join points", flush=True)
            begun = time.monotonic()
            woven = weave(artifacts, machine_of(kernel))
            slowest["to weave"] = max(slowest["to weave"], round(time.monotonic() - begun))
            sums["aspects"] += len(woven)
            sums["join points"] += points
            sums.update(_under_load(woven))
            begun = time.monotonic()
            unweave()
            slowest["to unweave"] = max(slowest["to unweave"], round(time.monotonic() - begun))
            left = settled(lambda found: not found - nothing, SETTLE) - nothing
            assert not left, f"{part.name} has left\n{left.text()}"
            complaints = log.complaints()
            assert not complaints, f"{part.name}: {complaints}"
    assert sums["hits"]
    return {
        "parts": len(parts),
        **sums,
        "aspects left out, why": dict(reasons),
        "seconds, the most": dict(slowest),
        "complaints of the kernel": 0,
        "left over": 0,
    }


def _made(part: Part, kernel: LiveKernel, reasons: Counter[str]) -> list[Artifact]:
    """The aspects of a part, and the one beside; those that are refused, or have too many join points, are counted."""
    there = [name for name in part.functions if any(True for _ in kernel.functions(name))]
    artifacts = build(SourceFile("beside.asp", BESIDE), kernel)
    for aspect in part.aspects:
        names = [name for name in there if "ustack()" not in aspect or name not in RUN_FOR_USER_STACKS]
        if not names:
            continue
        text = aspect
        for word in ("execution", "call"):
            text = text.replace(word.upper(), " || ".join(f"{word}({name})" for name in names))
        try:
            (artifact,) = build(SourceFile("danger.asp", text), kernel)
        except InputError as error:
            reasons[error.diagnostics[0].code] += 1
            continue
        if len(artifact.plan.joinpoints) <= MOST:
            artifacts.append(artifact)
        else:
            reasons["too many join points"] += 1
    return artifacts


def _under_load(woven: Sequence[WovenAspect]) -> dict[str, int]:
    """Hits, those that were missed, and the records read and lost, of some seconds."""
    records = 0
    time.sleep(SECONDS / 2)
    end = time.monotonic() + SECONDS / 2
    reader, _ = open_reader(woven)
    with reader:
        while time.monotonic() < end:
            reader.wait(0.05)
            for batch in reader.batches():
                records += len(batch)
                if time.monotonic() > end:
                    break
    counts = [count for aspect in woven for count in aspect.counts()]
    for aspect in woven:
        aspect.close()
    return {
        "hits": sum(count.hits for count in counts),
        "missed, and said so": round(sum(count.part for count in counts)),
        "records read": records,
        "lost for want of room, and said so": sum(count.lost for count in counts),
    }


# --- the load -------------------------------------------------------------------------------------------------------


def _modules_once() -> None:
    """A module comes and goes. What stays behind of the first time is there from the beginning."""
    for command in (["modprobe", "dummy", "numdummies=0"], ["rmmod", "dummy"]):
        subprocess.run(command, check=False)


@contextmanager
def _contention() -> Iterator[None]:
    """Processes that make the kernel wait, fault, fork, wake, print, and load modules, on all processors."""
    lock = multiprocessing.Lock()
    works = [_locks(lock), _locks(lock), _locks(lock), _files, _faults, _forks, _timers, _pipes, _wanders, _prints]
    children = [_forever(work) for work in (*works, _modules)]
    try:
        yield
    finally:
        for child in children:
            os.killpg(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        subprocess.run(["rmmod", "dummy"], check=False, stderr=subprocess.DEVNULL)


def _forever(work: Callable[[], None]) -> int:
    """A process, in a group of its own, that does something again and again as long as this one lives."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.nice(15)
        with suppress(BaseException):
            while os.getppid() == parent:
                work()
        os._exit(1)
    with suppress(OSError):
        os.setpgid(child, child)
    return child


def _locks(lock: Lock) -> Callable[[], None]:
    def work() -> None:
        with lock:
            os.sched_yield()

    return work


def _files() -> None:
    path = f"/dev/shm/danger{os.getpid()}"
    with open(path, "wb") as file:
        file.write(b"x" * 64)
    os.unlink(path)


def _faults() -> None:
    with mmap.mmap(-1, 1 << 18) as memory:
        for at in range(0, 1 << 18, mmap.PAGESIZE):
            memory[at] = 1


def _forks() -> None:
    subprocess.run(["/bin/true"], check=True)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.002)


def _timers() -> None:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    for _ in range(100):
        time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGALRM)


def _pipes() -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        while data := theirs.recv(1):
            theirs.send(data)
        os._exit(0)
    theirs.close()
    for _ in range(1000):
        ours.send(b"x")
        ours.recv(1)
    ours.close()
    os.waitpid(child, 0)


def _wanders() -> None:
    for cpu in range(os.cpu_count() or 1):
        os.sched_setaffinity(0, {cpu})
        time.sleep(0.001)


def _prints() -> None:
    with open("/dev/kmsg", "w", encoding="ascii") as file:
        file.write("<7>danger: load\n")
    time.sleep(0.02)


def _modules() -> None:
    _modules_once()
    time.sleep(0.3)
