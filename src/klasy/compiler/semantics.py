"""What the IR's arithmetic computes: shared by the interpreter, which defines, and the folding, which must agree."""

from __future__ import annotations


def binary(op: str, width: int, left: int, right: int) -> int:
    """The result of a Binary operation, as an unsigned 64-bit number."""
    mask = (1 << width) - 1
    left &= mask
    right &= mask
    match op:
        case "add":
            result = left + right
        case "sub":
            result = left - right
        case "mul":
            result = left * right
        case "udiv":
            result = left // right if right else 0
        case "umod":
            result = left % right if right else left
        case "sdiv" | "smod":
            a, b = signed(left, width), signed(right, width)
            quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else 0
            result = quotient if op == "sdiv" else a - quotient * b
        case "and":
            result = left & right
        case "or":
            result = left | right
        case "xor":
            result = left ^ right
        case "shl":
            result = left << right % width
        case "lshr":
            result = left >> right % width
        case "ashr":
            result = signed(left, width) >> right % width
        case _:
            raise AssertionError(f"no operator {op}")
    return result & mask


def compare(op: str, left: int, right: int) -> bool:
    """The outcome of a comparison of two unsigned 64-bit numbers."""
    if op[0] == "s":
        left, right = signed(left, 64), signed(right, 64)
    match op if op in ("eq", "ne") else op[1:]:
        case "eq":
            return left == right
        case "ne":
            return left != right
        case "lt":
            return left < right
        case "le":
            return left <= right
        case "gt":
            return left > right
        case "ge":
            return left >= right
    raise AssertionError(f"no comparison {op}")


def swap(number: int, width: int) -> int:
    """The low ``width`` bits with their bytes in the opposite order."""
    return int.from_bytes((number & (1 << width) - 1).to_bytes(width // 8, "little"), "big")


def signed(number: int, width: int) -> int:
    """The low ``width`` bits as a signed number."""
    number &= (1 << width) - 1
    return number - (1 << width) if number >> (width - 1) else number
