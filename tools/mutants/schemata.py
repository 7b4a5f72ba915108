"""The engine's sources with every mutant in them: a number chooses, while the program runs, which one is awake.

One build then holds them all. The sources of the package stay as they are; what is written here goes to build/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mutants.edits import EDITS

AUTOMATIC = ("pointwise.hpp", "math.hpp")
"""Files of arithmetic alone, in which each expression is changed in every way of `variants`."""

OPERATORS = {
    " + ": (" - ",), " - ": (" + ",), " * ": (" + ",), " / ": (" * ",), " < ": (" > ", " <= "), " > ": (" < ", " >= "),
    " <= ": (" > ",), " >= ": (" < ",), " == ": (" != ",), " != ": (" == ",), " & ": (" | ",), " ^ ": (" | ",),
    " >> ": (" << ",), " << ": (" >> ",),
}  # fmt: skip
NAMES = {
    "exp_": "expm1_", "expm1_": "exp_", "log_": "log1p_", "log1p_": "log_", "sin_": "cos_", "cos_": "sin_",
    "sqrt_": "abs_", "rsqrt_": "sqrt_", "sigmoid_": "tanh_", "tanh_": "sigmoid_", "softplus_": "exp_",
    "abs_": "", "floor_": "", "at_least": "at_most", "at_most": "at_least", "minimum_": "maximum_",
    "maximum_": "minimum_", "C::sine": "C::cosine", "C::cosine": "C::sine", "C::ln2_high": "C::ln2_low",
    "C::ln2_low": "C::ln2_high", "mod_": "at_least", "q.sine": "q.cosine", "q.cosine": "q.sine",
}  # fmt: skip
CALL = re.compile(r"\b(fma_|select)\(")
NUMBER = re.compile(r"\bT\((-?\d+(?:\.\d+)?)\)")
WORD = re.compile(r"\b(0x[0-9a-f]+)u\b")
SHIFT = re.compile(r", (1[56])\)")
OPCODE = re.compile(r"static RECURRA_INLINE V (\w+)\((V a(?:, V b)?(?:, V c)?)\)")
FUNCTION = re.compile(r"RECURRA_INLINE [\w<>:, ]+? (\w+)\(")
STATEMENT = re.compile(
    r"^(?P<before>.*?\breturn |\s+const [\w<>:, ]+? (?=\w+ = )|(?:.*\) |\s+)(?=\w+ = ))"
    r"(?P<code>[^;]+);(?P<after>[ }]*)$"
)

SKIPPED = re.compile(r"^\s*(//|#)|\bconstexpr\b|\bconst long\b|__builtin_")
"""What is no arithmetic: comments, constants, sizes of rows."""


@dataclass(frozen=True)
class Edit:
    """One mutant of the engine: its number, where it is, and what it changes."""

    number: int
    place: str
    change: str


def variants(code: str) -> Iterator[tuple[str, str]]:
    """An expression with one thing changed: what was changed, and the new expression."""
    for sign, others in OPERATORS.items():
        for found in re.finditer(re.escape(sign), code):
            for other in others:
                yield f"'{sign.strip()}' -> '{other.strip()}'", code[: found.start()] + other + code[found.end() :]
    for found in re.finditer(r"(?<=[(,] )-(?=[A-Za-z])|(?<=\()-(?=[A-Za-z])|^-(?=[A-Za-z])|!(?=\()", code):
        yield f"'{found[0]}' left out", code[: found.start()] + code[found.end() :]
    for found in NUMBER.finditer(code):
        value = float(found[1]) + 1
        yield f"{found[1]} -> {value:g}", f"{code[: found.start()]}T({value:g}){code[found.end() :]}"
    for found in WORD.finditer(code):
        other = f"{int(found[1], 16) ^ 2:#x}u"
        yield f"{found[0]} -> {other}", code[: found.start()] + other + code[found.end() :]
    for found in SHIFT.finditer(code):
        yield f"{found[1]} -> 14", f"{code[: found.start()]}, 14){code[found.end() :]}"
    for name, other in NAMES.items():
        for found in re.finditer(rf"(?<![\w:]){re.escape(name)}(?=\W)", code):
            yield f"{name} -> {other or 'nothing'}", code[: found.start()] + other + code[found.end() :]
    for found in CALL.finditer(code):
        first, second, third, end = _arguments(code, found.end())
        if found[1] == "select":
            changed, what = f"select({first}, {third}, {second})", "the branches of select exchanged"
        else:
            changed, what = f"fma_({first}, {second}, -({third}))", "the summand of fma_ negated"
        yield what, code[: found.start()] + changed + code[end:]


def _arguments(code: str, at: int) -> tuple[str, str, str, int]:
    """The three arguments of a call whose parenthesis opens before `at`, and where it ends."""
    parts, depth, begin = [], 0, at
    for i in range(at, len(code)):
        if code[i] in "({[":
            depth += 1
        elif depth == 0 and code[i] in ",)":
            parts.append(code[begin:i].strip())
            begin = i + 1
            if code[i] == ")":
                return parts[0], parts[1], parts[2], begin
        elif code[i] in ")}]":
            depth -= 1
    raise ValueError(f"a call without an end: {code[at:]}")


def _declarators(code: str) -> list[str]:
    """`a = x, b = y` taken apart."""
    parts, depth, begin = [], 0, 0
    for i, character in enumerate(code):
        depth += (character in "({[") - (character in ")}]")
        if character == "," and depth == 0:
            parts.append(code[begin:i].strip())
            begin = i + 1
    return [*parts, code[begin:].strip()]


class Writer:
    """Rewrites sources and numbers the mutants."""

    def __init__(self) -> None:
        self.edits: list[Edit] = []

    def new(self, place: str, change: str) -> str:
        """The condition under which a new mutant is awake."""
        number = len(self.edits) + 1
        self.edits.append(Edit(number, place, change))
        return f"recurra_mutant == {number}"

    def automatic(self, file: str, text: str) -> str:
        """Every expression of a file with its variants."""
        place, lines = file, []
        for line in text.split("\n"):
            opcode, function = OPCODE.search(line), FUNCTION.search(line)
            if opcode or function:
                place = f"opcode {opcode[1]}" if opcode else f"{file}, {function[1]}"  # type: ignore[index]
            found = STATEMENT.match(line)
            lines.append(line if found is None or SKIPPED.search(line) else self._statement(place, found, opcode))
        return "\n".join(lines)

    def _statement(self, place: str, found: re.Match[str], opcode: re.Match[str] | None) -> str:
        before, code, after = found["before"], found["code"], found["after"]
        if before.endswith("return "):
            ways = [*variants(code), *(_of_opcode(code, opcode) if opcode else ())]
            awake = "".join(f"if ({self.new(place, f'{what} in {code}')}) return {other}; " for what, other in ways)
            return f"{before[: -len('return ')]}{{ {awake}return {code}; }}{after}"
        parts = []
        for declarator in _declarators(code):
            name, _, value = declarator.partition(" = ")
            if not value or value.startswith("{"):
                parts.append(declarator)
                continue
            for what, other in reversed(list(variants(value))):
                value = f"{self.new(place, f'{what} in {declarator}')} ? ({other}) : ({value})"
            parts.append(f"{name} = {value}")
        return f"{before}{', '.join(parts)};{after}"

    def by_hand(self, file: str, text: str) -> str:
        """The edits that are listed for a file."""
        values = []
        for place, before, *others in EDITS[file]:
            if text.count(before) != 1:
                raise ValueError(f"{file}: {before!r} stands there {text.count(before)} times, expected once")
            value = before
            for other in others:
                condition = self.new(place, f"{before} -> {other or 'nothing'}")
                if before.endswith(";"):
                    value = f"if ({condition}) {{ {other} }} else {{ {value} }}"
                else:
                    value = f"({condition} ? ({other}) : ({value}))"
            # one edit may write what another one looks for
            text = text.replace(before, f"@{len(values)}@")
            values.append(value)
        return re.sub(r"@(\d+)@", lambda found: values[int(found[1])], text)


def _of_opcode(code: str, opcode: re.Match[str]) -> Iterator[tuple[str, str]]:
    """What can be wrong with an opcode as a whole."""
    for name in re.findall(r"V (\w)", opcode[2]):
        if name != code:
            yield f"{name} alone", name
    yield "a millionth more", f"({code}) * V(T(1.000001))"


def rewrite(sources: dict[str, str]) -> tuple[dict[str, str], list[Edit]]:
    """The sources with all mutants in them, and what these are."""
    writer, written = Writer(), dict(sources)
    for file in AUTOMATIC:
        written[file] = writer.automatic(file, written[file])
    for file in EDITS:
        written[file] = writer.by_hand(file, written[file])
    declared = 'extern "C" int recurra_mutant;\n'
    written["vector.hpp"] = written["vector.hpp"].replace("namespace recurra {", f"{declared}namespace recurra {{", 1)
    written["dispatch.cpp"] += '\nextern "C" { __attribute__((visibility("default"))) int recurra_mutant = 0; }\n'
    return written, writer.edits
