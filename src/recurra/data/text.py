"""Text as numbers and back, by characters or by words, in any script."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, FormatError

Unit = Literal["char", "word"]
UNITS: tuple[Unit, ...] = ("char", "word")

RESERVED = 0
"""The one number that stands for no token: what a model reads before the first token of a document, and in place of a
token that it has never seen. It is never predicted and never generated."""

# Chinese and Japanese put no spaces between words, so each of their characters counts as a word of its own.
_IDEOGRAPHS_AND_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
# A word carries the space before it, so that joining the tokens gives the text back, every blank in its place.
_WORD = re.compile(rf" ?[{_IDEOGRAPHS_AND_KANA}]| ?[^\W{_IDEOGRAPHS_AND_KANA}]+| ?[^\w\s]|\s")
_CODE_POINTS = 0x110000


def split_into_tokens(text: str, unit: Unit) -> list[str]:
    """The tokens of a text; joined, they are the text again."""
    return list(text) if unit == "char" else _WORD.findall(text)


class Vocabulary:
    """The tokens that a model knows, numbered from 1; 0 is `RESERVED`.

    Args:
        unit: "char" for characters (Unicode code points), "word" for words with the space before them.
        tokens: the known tokens, without the reserved one; no duplicates.

    Raises:
        ArgumentError: no such unit, no tokens, or one of them twice.
    """

    def __init__(self, unit: Unit, tokens: Sequence[str]) -> None:
        if unit not in UNITS:
            raise ArgumentError("the unit of a vocabulary", got=unit, expected=" or ".join(map(repr, UNITS)))
        if not tokens:
            raise ArgumentError("a vocabulary needs at least one token")
        self.unit: Unit = unit
        self.tokens = tuple(tokens)
        self._numbers = {token: number for number, token in enumerate(self.tokens, start=1)}
        if len(self._numbers) != len(self.tokens):
            raise ArgumentError("a vocabulary holds a token twice", advice="Give each token once.")
        self._by_code_point: NDArray[np.int32] | None = None

    @classmethod
    def build(cls, texts: Iterable[str], unit: Unit, *, size: int) -> "Vocabulary":
        """The most frequent tokens of the texts, at most `size` of them; ties in alphabetical order."""
        if unit == "char":
            counts = np.zeros(_CODE_POINTS, dtype=np.int64)
            for text in texts:
                counts += np.bincount(_code_points(text), minlength=_CODE_POINTS)
            present = np.flatnonzero(counts)
            order = np.argsort(-counts[present], kind="stable")[:size]
            return cls(unit, [chr(code) for code in present[order]])
        counter: Counter[str] = Counter()
        for text in texts:
            counter.update(_WORD.findall(text))
        return cls(unit, sorted(counter, key=lambda token: (-counter[token], token))[:size])

    def __len__(self) -> int:
        """How many numbers there are, the reserved one included."""
        return len(self.tokens) + 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.unit, self.tokens) == (other.unit, other.tokens)

    def __hash__(self) -> int:
        return hash((self.unit, self.tokens))

    def encode(self, text: str) -> NDArray[np.int32]:
        """The numbers of the text's tokens, shape (tokens,); `RESERVED` where a token is unknown."""
        if self.unit == "word":
            tokens = _WORD.findall(text)
            return np.fromiter((self._numbers.get(token, RESERVED) for token in tokens), np.int32, len(tokens))
        if self._by_code_point is None:
            table = np.full(_CODE_POINTS, RESERVED, dtype=np.int32)
            table[[ord(token) for token in self.tokens]] = np.arange(1, len(self), dtype=np.int32)
            self._by_code_point = table
        return self._by_code_point[_code_points(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text that the numbers stand for; U+FFFD in place of the reserved one."""
        return "".join("\ufffd" if number == RESERVED else self.tokens[number - 1] for number in numbers)

    def to_dict(self) -> dict[str, object]:
        """What `from_dict` needs to build an equal vocabulary; plain JSON."""
        return {"unit": self.unit, "tokens": list(self.tokens)}

    @classmethod
    def from_dict(cls, data: object) -> "Vocabulary":
        """A vocabulary from what `to_dict` returned.

        Raises:
            FormatError: the data are not a vocabulary.
        """
        if not isinstance(data, dict) or data.keys() != {"unit", "tokens"}:
            raise FormatError("a vocabulary in a model file", got=data, expected="the fields 'unit' and 'tokens'")
        unit, tokens = data["unit"], data["tokens"]
        if unit not in UNITS:
            raise FormatError("the unit of a vocabulary", got=unit, expected=" or ".join(map(repr, UNITS)))
        if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens):
            raise FormatError("the tokens of a vocabulary", expected="a list of strings, none of them empty")
        if unit == "char" and any(len(token) != 1 for token in tokens):
            raise FormatError("the tokens of a vocabulary of characters", expected="one character each")
        return cls(unit, tokens)


def _code_points(text: str) -> NDArray[np.uint32]:
    # A prompt from a command line may hold lone surrogates; as unknown characters they do no harm.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
