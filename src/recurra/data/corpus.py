"""Documents of text: where they come from, and how they are split into training, validation and test parts."""

import hashlib
import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recurra.errors import ArgumentError, FormatError

LEFT_OUT_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"})
"""Folders of the Python standard library that are no part of its source: caches, installed packages and tests."""

_LICENCE_NAMES = ("license", "licence", "copying", "copyright", "notice")


@dataclass(frozen=True)
class Document:
    """One text; a model starts afresh at its beginning."""

    name: str
    """The path below the folder that it was read from, with "/" between folders; a file's own name otherwise."""
    text: str


@dataclass(frozen=True)
class Parts:
    """A corpus in three parts. The last two may be empty."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]


@dataclass(frozen=True)
class Corpus:
    """Documents read from one place.

    `by_position` says how it is split: one file by position, a folder by file.
    """

    source: str
    documents: tuple[Document, ...]
    by_position: bool
    skipped: int = 0
    """How many files of the folder were left out because they are empty or not UTF-8 text."""

    @property
    def characters(self) -> int:
        """How many characters the documents have, all of them together."""
        return sum(len(document.text) for document in self.documents)

    def split(self, shares: tuple[float, float, float]) -> Parts:
        """The training, validation and test parts, of about these shares.

        A single file is cut by position, in this order. The files of a folder go to a part each, by a hash of their
        names: a file stays in its part whatever is added to or removed from the folder.

        Raises:
            ArgumentError: nothing is left for training.
        """
        parts = _cut(self.documents[0], shares) if self.by_position else _deal(self.documents, shares)
        if not parts.train:
            raise ArgumentError(
                f"the training part of {self.source} is empty",
                advice="Give it a larger share with --split, or more text.",
            )
        return parts

    def fingerprint(self) -> str:
        """A hash of every name and text, to recognise the same data again."""
        digest = hashlib.sha256()
        for document in self.documents:
            for field in (document.name, document.text):
                content = field.encode("utf-8", "surrogatepass")
                digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()


def parse_split(split: str) -> tuple[float, float, float]:
    """Shares of the training, validation and test parts from per cent: "90/5/5", "90/10/0" or "90/10".

    Raises:
        ArgumentError: not two or three numbers, one of them negative, a sum other than 100, or nothing to train on.
    """
    expected = 'per cent for training, validation and test, such as "90/5/5", that add up to 100'
    fields = split.split("/")
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        raise ArgumentError("a split", got=split, expected=expected) from None
    if len(numbers) not in (2, 3) or any(not 0 <= number <= 100 for number in numbers):
        raise ArgumentError("a split", got=split, expected=expected)
    if abs(sum(numbers) - 100) > 1e-6 or numbers[0] == 0:
        raise ArgumentError("a split", got=split, expected=f"{expected}, with something for training")
    train, validation, test = (*numbers, 0.0)[:3]
    return train / 100, validation / 100, test / 100


def read_corpus(path: Path) -> Corpus:
    """The text of a file, or of every text file below a folder (hidden ones left out), as UTF-8.

    Raises:
        ArgumentError: there is no such file or folder, or no text in it.
        FormatError: the file is not UTF-8 text.
        OSError: it cannot be read.
    """
    if path.is_dir():
        return _read_folder(path, source=str(path), folder_wanted=_not_hidden, file_wanted=_not_hidden)
    if not path.exists():
        raise ArgumentError(f"there is no file or folder {str(path)!r}", advice="Check the path after --data.")
    if not path.is_file():
        raise ArgumentError(f"{str(path)!r} is neither a file nor a folder")
    text = _decode(path.read_bytes(), str(path))
    if not text:
        raise ArgumentError(f"{str(path)!r} is empty", advice="Give a file with text in it after --data.")
    return Corpus(str(path), (Document(path.name, text),), by_position=True)


def read_standard_library() -> Corpus:
    """The source of the Python standard library on this machine: its .py files, without tests and licence texts.

    Raises:
        ArgumentError: this Python has no library source to read.
    """
    root = Path(sysconfig.get_path("stdlib"))
    source = f"the Python {sysconfig.get_python_version()} standard library"
    if not root.is_dir():
        raise ArgumentError(f"this Python keeps no source of its standard library in {root}", advice="Name --data.")
    return _read_folder(
        root,
        source=source,
        folder_wanted=lambda name: name not in LEFT_OUT_FOLDERS,
        file_wanted=lambda name: name.endswith(".py") and not name.lower().startswith(_LICENCE_NAMES),
    )


def _not_hidden(name: str) -> bool:
    return not name.startswith(".")


def _read_folder(
    root: Path, *, source: str, folder_wanted: Callable[[str], bool], file_wanted: Callable[[str], bool]
) -> Corpus:
    documents: list[Document] = []
    skipped = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(filter(folder_wanted, folders))
        for path in (Path(folder, name) for name in sorted(filter(file_wanted, files))):
            # Pipes and sockets would block; a broken link is no text.
            if not path.is_file():
                continue
            try:
                text = _decode(path.read_bytes(), str(path))
            except FormatError:
                text = ""
            if text:
                documents.append(Document(path.relative_to(root).as_posix(), text))
            else:
                skipped += 1
    if not documents:
        raise ArgumentError(
            f"there is no text in {str(root)!r}",
            expected="at least one file of UTF-8 text",
            advice=f"Empty or of another kind: {skipped:,} of its files." if skipped else "The folder is empty.",
        )
    # In the order of a hash, neighbours in the stream are not neighbours in the folder.
    documents.sort(key=lambda document: _place(document.name))
    return Corpus(source, tuple(documents), by_position=False, skipped=skipped)


def _decode(content: bytes, name: str) -> str:
    if b"\0" in content:
        raise FormatError(f"{name!r} is a binary file", expected="UTF-8 text", advice="Give a text file after --data.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{name!r} is not UTF-8 text (byte {error.start} is {content[error.start]:#04x})",
            expected="UTF-8 text",
            advice="Convert it first, for instance with iconv.",
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _place(name: str) -> float:
    """Where a name falls between 0 and 1, the same on every machine."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _cut(document: Document, shares: tuple[float, float, float]) -> Parts:
    text = document.text
    # Rounded first: 0.9 + 0.1 must not lose the last character.
    first = int(round(len(text) * shares[0], 6))
    second = int(round(len(text) * (shares[0] + shares[1]), 6))
    pieces = (text[:first], text[first:second], text[second:])
    train, validation, test = (
        (Document(f"{document.name} ({name})", piece),) if piece else ()
        for name, piece in zip(("training", "validation", "test"), pieces, strict=True)
    )
    return Parts(train, validation, test)


def _deal(documents: tuple[Document, ...], shares: tuple[float, float, float]) -> Parts:
    first, second = shares[0], shares[0] + shares[1]
    places = [(document, _place(document.name)) for document in documents]
    return Parts(
        tuple(document for document, place in places if place < first),
        tuple(document for document, place in places if first <= place < second),
        tuple(document for document, place in places if place >= second),
    )
