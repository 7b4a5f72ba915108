"""Exported files on streams, by ONNX Runtime: the same `Stream` and `Streams` as in torch and in the runtime. Knows no
torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from recurra.data import Vocabulary
from recurra.decode import Picker, Reader, continued
from recurra.errors import ArgumentError, FormatError
from recurra.onnx.file_model import Model
from recurra.onnx.files import read_file
from recurra.onnx.sessions import open_session


def load(model: str | os.PathLike[str] | bytes, *, threads: int = 1) -> Model:
    """Opens a file that `recurra.onnx.export` wrote, given by its path or as bytes, for streams.

    ONNX Runtime computes, on so many threads. torch is not imported, and the package onnx is not needed.

    The file of a language model, which has its vocabulary, opens as `LanguageModel`.

    Raises FormatError for a file that is damaged, and for one that others wrote, whose states cannot be told;
    ArgumentError for a path without a file, and for `threads` below 1;
    BackendUnavailable where onnxruntime is not installed; OSError where the file cannot be read.
    """
    _check_count("threads", threads)
    given = isinstance(model, bytes | bytearray | memoryview)
    content = bytes(model) if given else read_file(model)
    try:
        session = open_session(content, threads)
    except FormatError as error:
        if given:
            raise
        raise FormatError(f"{str(model)!r}: {error}") from error
    kind = LanguageModel if "vocabulary" in session.get_modelmeta().custom_metadata_map else Model
    return kind(session, content)


class LanguageModel(Model):
    """A language model in an ONNX file: it reads tokens, generates and scores text, as `recurra.runtime.LanguageModel`
    does."""

    def __init__(self, session: Any, content: bytes) -> None:
        """As of `Model`; raises FormatError, too, where the vocabulary in the file is damaged or of another size."""
        super().__init__(session, content)
        try:
            data = json.loads(self.about["vocabulary"])
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"the vocabulary in the file is no JSON: {error}", advice="Export the model again"
            ) from None
        self.vocabulary = Vocabulary.from_dict(data)
        sizes = {len(self.vocabulary), self.tokens, self.output_size}
        if self.input_size is not None or len(sizes) != 1 or self.pools or self.uses_elapsed:
            raise FormatError(
                f"the vocabulary in the file has {len(self.vocabulary)} tokens",
                expected=f"{self.tokens} read, and a score of each after every step",
                advice="Export the model again",
            )

    def generate(self, prompt: str, pick: Picker, *, length: int) -> Iterator[str]:
        """Continue the prompt by `length` tokens, each yielded as soon as it is made. The prompt and the pieces,
        joined, are the text; an empty prompt begins a document."""
        return continued(self.stream(), self.vocabulary, prompt, pick, length=length)

    def reader(self) -> Reader:
        """Reads a text as it comes and tells how well it was foreseen."""
        return Reader(self.stream(), self.vocabulary)


def _check_count(name: str, count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"{name} is {count!r}", expected="a whole number from 1")
