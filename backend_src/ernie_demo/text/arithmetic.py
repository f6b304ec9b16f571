"""Sums worked out digit by digit, as people do on paper, in English and Chinese; asks nothing.

Each step names the digits it takes and the one it writes, so that a small model needs no step larger than a table of digits.
"""

from __future__ import annotations

PLACES = {"en": ("Ones", "Tens", "Hundreds", "Thousands"), "zh": ("个位", "十位", "百位", "千位")}


def result(operation: str, a: int, b: int) -> int:
    if operation == "+":
        return a + b
    if operation == "÷":
        return a // b
    return a - b if operation == "-" else a * b


def equation(operation: str, a: int, b: int) -> str:
    return f"{a} {operation} {b} = {result(operation, a, b)}"


def chain(operation: str, a: int, b: int, language: str) -> str:
    """The steps, one line; for `-` with a < b the other way round; for `×` b has one digit, for `÷` it divides a."""
    if operation == "-" and a < b:
        begin = f"{a} < {b}" + (", so the result is negative. " if language == "en" else "，结果是负数。")
        return begin + _joined(f"{b} - {a}", _minus(b, a, language), f"{a} - {b} = {a - b}", language)
    if operation == "÷":
        return _joined(f"{a} ÷ {b}", [f"{b} × {a // b} = {a}"], equation(operation, a, b), language)
    steps = {"+": _plus, "-": _minus, "×": _times}[operation](a, b, language)
    return _joined(f"{a} {operation} {b}", steps, equation(operation, a, b), language)


def _joined(asked: str, steps: list[str], end: str, language: str) -> str:
    if language == "zh":
        return f"{asked}。" + "".join(f"{step}。" for step in steps) + f"所以{end}。"
    return f"{asked}. " + "".join(f"{step}. " for step in steps) + f"So {end}."


def _digits(number: int, count: int) -> list[int]:
    """Ones first."""
    return [number // 10**place % 10 for place in range(count)]


def _length(*numbers: int) -> int:
    return max(len(str(number)) for number in numbers)


def _carried(place: str, sum_of_digits: str, total: int, last: bool, language: str) -> str:
    colon, comma = (": ", ", ") if language == "en" else ("：", "，")
    if total < 10 or last:
        return f"{place}{colon}{sum_of_digits} = {total}"
    write, carry = ("write", "carry") if language == "en" else ("写", "进")
    gap = " " if language == "en" else ""
    return f"{place}{colon}{sum_of_digits} = {total}{comma}{write}{gap}{total % 10}{comma}{carry}{gap}{total // 10}"


def _plus(a: int, b: int, language: str) -> list[str]:
    count, carry, steps = _length(a, b), 0, []
    for place, (x, y) in enumerate(zip(_digits(a, count), _digits(b, count), strict=True)):
        total = x + y + carry
        steps.append(_carried(PLACES[language][place], f"{x} + {y}" + f" + {carry}" * bool(carry), total, place == count - 1, language))
        carry = total // 10
    return steps


def _times(a: int, b: int, language: str) -> list[str]:
    count, carry, steps = _length(a), 0, []
    for place, x in enumerate(_digits(a, count)):
        total = x * b + carry
        steps.append(_carried(PLACES[language][place], f"{x} × {b}" + f" + {carry}" * bool(carry), total, place == count - 1, language))
        carry = total // 10
    return steps


def _minus(a: int, b: int, language: str) -> list[str]:
    count, borrowed, steps = _length(a, b), 0, []
    colon, comma = (": ", ", ") if language == "en" else ("：", "，")
    borrow = "borrow" if language == "en" else "借位"
    for place, (x, y) in enumerate(zip(_digits(a, count), _digits(b, count), strict=True)):
        x -= borrowed
        taken = f"{x + borrowed} - {borrowed} = {x}{comma}" if borrowed else ""
        needs = x < y
        shown = f"{x} < {y}{comma}{borrow}{comma}{x + 10} - {y} = {x + 10 - y}" if needs else f"{x} - {y} = {x - y}"
        steps.append(f"{PLACES[language][place]}{colon}{taken}{shown}")
        borrowed = int(needs)
    return steps


def compared(a: str, b: str, language: str) -> str:
    """Why the larger of two decimal numbers is the larger: the first place where they differ, after filling up with zeros."""
    (whole_a, _, part_a), (whole_b, _, part_b) = a.partition("."), b.partition(".")
    length = max(len(part_a), len(part_b))
    filled_a, filled_b = part_a.ljust(length, "0"), part_b.ljust(length, "0")
    steps = []
    english = language == "en"
    if len(part_a) != len(part_b):
        shown = f"{whole_a}.{filled_a}, {whole_b}.{filled_b}"
        steps.append(f"With {length} decimals: {shown}" if english else f"写成{length}位小数：{shown.replace(', ', '，')}")
    if len(whole_a) != len(whole_b):
        steps.append(f"{whole_a} has {len(whole_a)}, {whole_b} has {len(whole_b)} digits" if english else
                     f"{whole_a}有{len(whole_a)}位，{whole_b}有{len(whole_b)}位")  # fmt: skip
    else:
        for x, y in zip(whole_a + filled_a, whole_b + filled_b, strict=True):
            steps.append(f"{x} {'=' if x == y else '<' if x < y else '>'} {y}")
            if x != y:
                break
    end = larger(a, b)
    if english:
        return f"{a} and {b}. " + "".join(f"{step}. " for step in steps) + f"So {end} is larger."
    return f"{a}和{b}。" + "".join(f"{step}。" for step in steps) + f"所以{end}更大。"


def larger(a: str, b: str) -> str:
    return a if float(a) > float(b) else b
