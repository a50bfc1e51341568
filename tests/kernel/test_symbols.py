"""%pS and %ps beside the kernel's own %pS, by which it shows arguments of probe events of the type ``symbol``."""

from __future__ import annotations

import os
import re

from support.weaving import traced, woven

ASPECT = """aspect symbols {
    before(struct file *file): execution(vfs_fsync_range(struct file *file, ..)) && if(pid == PID) {
        log("%pS|%pS|%pS|%pS|%pS", &init_net, (u64)&init_net + 8, file->f_op, file->f_op->llseek, file);
        log("%ps|%ps|%ps|%ps|%ps", &init_net, (u64)&init_net + 8, file->f_op, file->f_op->llseek, file);
        log("%p|%p|%p|%p|%p", &init_net, (u64)&init_net + 8, file->f_op, file->f_op->llseek, file);
    }
}"""


def as_the_kernel_has_it(descriptor: int, addresses: list[str]) -> list[str]:
    """What printk's %pS makes of addresses, but for the size of what is there."""
    arguments = " ".join(f"a{n}=\\{a}:symbol" for n, a in enumerate(addresses))
    text = traced(f"vfs_fsync_range {arguments}", lambda: os.fsync(descriptor))
    shown = re.search(r"a0=.*", text)
    assert shown
    return re.split(r" ?a\d=", re.sub(r"/0x[0-9a-f]+", "", shown[0]))[1:]


def test_variables_are_named() -> None:
    """Those of the kernel and of a module, by an address of theirs or of a part; code as ever; other memory is not."""
    with woven(ASPECT.replace("PID", str(os.getpid()))) as aspect, open(__file__) as file:  # of a module's file system
        os.fsync(file.fileno())
        places, names, numbers = (event.message.split("|") for event in aspect.mine())
        known = as_the_kernel_has_it(file.fileno(), numbers)
    assert places == known
    assert names == [re.sub(r"\+0x[0-9a-f]+", "", place) for place in known]
    assert places[:2] == ["init_net+0x0", "init_net+0x8"]
    assert re.fullmatch(r"\w+_operations\S*\+0x0 \[\w+\]", places[2])
    assert places[4] == numbers[4]
