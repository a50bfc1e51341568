"""Stacks out of records, and in words: one line a frame, the innermost first. Imported where an aspect logs any."""

from __future__ import annotations

from klasy.log.format_text import harmless
from klasy.log.value import Stack, UserFrame, UserStack
from klasy.plain import TYPE_CHECKING
from klasy.record import (
    STACK_BENEATH,
    STACK_OWN_UNLESS_TAIL,
    USER_FRAME,
    USER_FRAME_ADDRESS,
    USER_FRAME_BESIDE,
    USER_FRAME_BUILD_ID,
)

if TYPE_CHECKING:
    from typing import Any

    from klasy.log.event import LogPoint
    from klasy.log.symbolize import Symbolizer

_MASK = (1 << 64) - 1
_MOST_OFFSET = (1 << 63) - 1  # in a file (loff_t)
INDENT = "        "


def kernel_stack(raw: bytes, point: LogPoint, symbols: Symbolizer) -> Stack:
    """The stack that a record holds. Its first frame is the join point's place, to the byte."""
    first, *frames = (int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))
    cut = frames[-1] != 0
    frames = frames[: frames.index(0)] if not cut else frames
    if not point.address:  # of a caller that is not known the frame knows more
        return Stack(tuple(frames), cut)
    if first == STACK_BENEATH or (first == STACK_OWN_UNLESS_TAIL and point.tail):
        frames.insert(0, point.address)
    elif frames and symbols.start(frames[0]) == symbols.start(point.address):
        frames[0] = point.address
    return Stack(tuple(frames), cut)


def user_stack(raw: bytes, pid: int, time_ns: int) -> UserStack:
    """The stack of a process that a record holds."""
    frames: list[UserFrame] = []
    (status, build_id, offset), *rest = USER_FRAME.iter_unpack(raw)
    cut = True
    for frame in (_user_frame(*each) for each in rest):
        if frame is None:
            cut = False
            break
        # Where nothing is mapped at an address the kernel takes what is mapped next (find_vma), and the offset is below
        # zero: what was followed there was no frame pointer.
        if frame.build_id is None or frame.offset <= _MOST_OFFSET:
            frames.append(frame)
    if status == USER_FRAME_BESIDE and frames:
        frames.insert(1, UserFrame(frames[0].build_id, (frames[0].offset + offset) & _MASK))
    elif frames and (caller := _user_frame(status, build_id, offset)) is not None:
        frames.insert(1, caller)
    return UserStack(pid, time_ns, tuple(frames), cut)


def _user_frame(status: int, build_id: bytes, offset: int) -> UserFrame | None:
    if status == USER_FRAME_BUILD_ID:
        return UserFrame(build_id, offset)
    return UserFrame(None, offset) if status == USER_FRAME_ADDRESS else None


def text(stack: Stack | UserStack, symbols: Symbolizer) -> str:
    """The frames, each on a line of its own that begins with its indentation."""
    if isinstance(stack, Stack):
        lines = [_kernel_line(frame, symbols, returns=bool(at)) for at, frame in enumerate(stack.frames)]
    else:
        lines = [_user_line(frame) for frame in symbols.user.frames(stack)]
    if not lines:
        return "(none)"
    if stack.cut:
        lines.append("..")
    return "".join(f"\n{INDENT}{line}" for line in lines)


def _kernel_line(address: int, symbols: Symbolizer, *, returns: bool) -> str:
    function, offset, module = symbols.frame(address, returns=returns)
    inside = f" [{module}]" if module else ""
    return f"{address:#x}" if function is None else f"{function}+{offset:#x}{inside}"


def _user_line(frame: dict[str, Any]) -> str:
    """The names are those that the maker of a program liked."""
    name = harmless(frame["file"].rpartition("/")[2]) if frame["file"] else ""
    if frame["function"] is not None:
        return f"{harmless(frame['function'])}+{frame['offset']:#x}" + (f" [{name}]" if name else "")
    if frame["file_offset"] is None:
        return str(frame["address"])
    return f"{name or 'build id ' + frame['build_id']}+{frame['file_offset']:#x}"


def as_json(stack: Stack | UserStack, symbols: Symbolizer) -> list[dict[str, Any]]:
    """The frames as plain data; docs/json.md."""
    if isinstance(stack, UserStack):
        from klasy.log.format_json import text_json

        return [
            {name: text_json(value) if isinstance(value, str) else value for name, value in frame.items()}
            for frame in symbols.user.frames(stack)
        ]
    found = []
    for at, address in enumerate(stack.frames):
        function, offset, module = symbols.frame(address, returns=bool(at))
        known = function is not None
        found.append(
            {"function": function, "offset": offset if known else None, "module": module, "address": f"{address:#x}"}
        )
    return found
