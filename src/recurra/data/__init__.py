"""Data: reading, splitting, and turning into numbers. Needs numpy only; no other part of recurra.

text      characters or words as numbers, and back
corpus    documents of a file, of a folder or of the Python standard library; split into parts
stream    contiguous batches of a stream of tokens, for truncated backpropagation and for scoring
"""

from recurra.data.corpus import Corpus, Document, Parts, parse_split, read_corpus, read_standard_library
from recurra.data.stream import Chunk, Rows, TokenStream, TrainingChunks, exact_rows, sampled_rows
from recurra.data.text import RESERVED, Vocabulary

__all__ = [
    "RESERVED",
    "Chunk",
    "Corpus",
    "Document",
    "Parts",
    "Rows",
    "TokenStream",
    "TrainingChunks",
    "Vocabulary",
    "exact_rows",
    "parse_split",
    "read_corpus",
    "read_standard_library",
    "sampled_rows",
]
