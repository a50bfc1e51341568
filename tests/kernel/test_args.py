"""args(..) in the kernel: what is bound by place is what the program passed."""

from __future__ import annotations

import os

from support.weaving import woven

TEXT = f"""aspect a {{
    pointcut mine(): (execution(vfs_read) || execution(vfs_write)) && if(pid == {os.getpid()});
    before(size_t n, loff_t *at): mine() && args(*, *, size_t n, at) {{ log(n, *at); }}
    before(struct file *f): execution(vfs_*) && args(f, char *, size_t, loff_t *) && !args(*, const char *, ..)
        && if(pid == {os.getpid()}) {{ log(f->f_pos); }}
    after(loff_t from) returning (int result):
        call(vfs_fsync_range) && args(*, from, .., int) && if(pid == {os.getpid()}) {{ log(from, result); }}
}}"""


def test_args(file):
    """Arguments come by their places, whatever their names; types tell read from write; calls have arguments too."""
    os.lseek(file, 2, os.SEEK_SET)
    with woven(TEXT) as aspect:
        os.pwrite(file, b"0123456789", 3)
        os.pread(file, 7, 5)
        os.fsync(file)
        events = [(event.advice, dict(aspect.as_json(event)["values"])) for event in aspect.mine()]
    expected = [  # what else this process reads while the aspect is woven comes in between
        ("before#0", {"n": 10, "*at": 3}),
        ("before#0", {"n": 7, "*at": 5}),
        ("before#1", {"f->f_pos": 2}),
        ("after#2", {"from": 0, "result": 0}),
    ]
    assert [event for event in events if event in expected] == expected
