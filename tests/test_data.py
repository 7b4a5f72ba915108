"""Text in: vocabularies, corpora and their parts, and the streams of tokens that models read."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra.data import (
    RESERVED,
    TokenStream,
    TrainingChunks,
    Vocabulary,
    exact_rows,
    parse_split,
    read_corpus,
    read_standard_library,
    sampled_rows,
)
from recurra.data.stream import IGNORED
from recurra.data.text import split_into_tokens
from recurra.errors import ArgumentError, FormatError

JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
MIXED = "naïve café — Ωμέγα, дом; 猫 sat\ton the mat 😀\u0301\n"


@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize("text", [JAPANESE, MIXED])
def test_any_script_comes_back(unit, text):
    vocabulary = Vocabulary.build([text], unit, size=1000)
    numbers = vocabulary.encode(text)
    assert RESERVED not in numbers
    assert vocabulary.decode(numbers) == text
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary


@given(st.text(), st.sampled_from(["char", "word"]))
def test_tokens_joined_are_the_text(text, unit):
    assert "".join(split_into_tokens(text, unit)) == text


def test_words_carry_the_space_before_them_and_japanese_is_taken_apart():
    assert split_into_tokens("the cat, the mat\n", "word") == ["the", " cat", ",", " the", " mat", "\n"]
    assert split_into_tokens("猫である", "word") == ["猫", "で", "あ", "る"]


@pytest.mark.parametrize("unit", ["char", "word"])
def test_a_token_never_seen_is_the_reserved_one(unit):
    vocabulary = Vocabulary.build(["abc abc"], unit, size=1000)
    assert vocabulary.encode("猫")[0] == RESERVED
    assert vocabulary.encode("\udc80")[0] == RESERVED
    assert vocabulary.decode([RESERVED]) == "\ufffd"


def test_the_most_frequent_tokens_are_kept():
    vocabulary = Vocabulary.build(["aaabbc"], "char", size=2)
    assert vocabulary.tokens == ("a", "b")
    assert vocabulary.encode("abc").tolist() == [1, 2, RESERVED]
    assert Vocabulary.build(["b a a", " b c"], "word", size=2).tokens == (" a", " b")


@pytest.mark.parametrize(
    "data",
    [None, {}, {"unit": "byte", "tokens": ["a"]}, {"unit": "char", "tokens": ["ab"]}, {"unit": "char", "tokens": 3}],
)
def test_a_damaged_vocabulary_is_refused(data):
    with pytest.raises(FormatError):
        Vocabulary.from_dict(data)


@pytest.mark.parametrize("split", ["", "90", "a/b/c", "90/5", "0/50/50", "110/-5/-5", "nan/1/1", "90/5/5/0"])
def test_a_bad_split_is_refused(split):
    with pytest.raises(ArgumentError, match="90/5/5"):
        parse_split(split)


def test_a_file_is_split_by_position(tmp_path: Path):
    text = "".join(chr(ord("a") + i % 26) for i in range(1000))
    (tmp_path / "text").write_text(text)
    corpus = read_corpus(tmp_path / "text")
    parts = corpus.split(parse_split("90/5/5"))
    texts = ["".join(d.text for d in part) for part in (parts.train, parts.validation, parts.test)]
    assert [len(t) for t in texts] == [900, 50, 50]
    assert "".join(texts) == text
    assert corpus.split(parse_split("90/10/0")).test == ()
    assert len(corpus.split(parse_split("90/10")).validation[0].text) == 100


def test_a_folder_is_split_by_file_and_a_file_stays_where_it_is(tmp_path: Path):
    for i in range(300):
        path = tmp_path / f"{i % 7}" / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text {i}")
    before = read_corpus(tmp_path).split(parse_split("80/10/10"))
    names = [{d.name for d in part} for part in (before.train, before.validation, before.test)]
    assert [len(n) > 15 for n in names] == [True] * 3
    assert sum(map(len, names)) == 300
    (tmp_path / "1" / "another.txt").write_text("more")
    after = read_corpus(tmp_path).split(parse_split("80/10/10"))
    for part, known in zip((after.train, after.validation, after.test), names, strict=True):
        assert {d.name for d in part} - {"1/another.txt"} == known


def test_a_folder_leaves_out_what_is_hidden_empty_or_not_text(tmp_path: Path):
    (tmp_path / "good.txt").write_text(JAPANESE, encoding="utf-8")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    corpus = read_corpus(tmp_path)
    assert [d.name for d in corpus.documents] == ["good.txt"]
    assert corpus.skipped == 3


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ArgumentError, "there is no file or folder"),
        (b"", ArgumentError, "is empty"),
        (b"abc\0def", FormatError, "binary"),
        (b"caf\xe9", FormatError, "byte 3 is 0xe9"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content, error, message):
    path = tmp_path / "data"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_corpus(path)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(ArgumentError, match="empty"):
        read_corpus(tmp_path)


def test_a_byte_order_mark_and_foreign_line_ends_are_no_text(tmp_path: Path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_corpus(tmp_path / "text").documents[0].text == "a\nb\nc\n"


def test_the_standard_library_comes_without_tests_and_licences():
    corpus = read_standard_library()
    names = {d.name for d in corpus.documents}
    assert {"argparse.py", "json/decoder.py"} <= names
    assert corpus.characters > 5_000_000
    for name in names:
        folders = name.split("/")[:-1]
        assert not {"test", "tests", "idle_test", "site-packages", "__pycache__"} & set(folders), name
        assert name.endswith(".py")
    parts = corpus.split(parse_split("90/5/5"))
    sizes = [sum(len(d.text) for d in part) for part in (parts.train, parts.validation, parts.test)]
    assert 0.8 < sizes[0] / corpus.characters < 0.96
    assert min(sizes) > 100_000


def test_the_fingerprint_tells_texts_apart(tmp_path: Path):
    path = tmp_path / "text"
    path.write_text("one")
    first = read_corpus(path).fingerprint()
    assert read_corpus(path).fingerprint() == first
    path.write_text("two")
    assert read_corpus(path).fingerprint() != first


def stream_of(*lengths: int) -> TokenStream:
    """A stream of documents of these lengths, with a number of its own for every token."""
    numbers = iter(range(1, 1 + sum(lengths)))
    return TokenStream.from_documents([np.array([next(numbers) for _ in range(n)], dtype=np.int32) for n in lengths])


def test_every_token_of_every_document_is_a_target_once():
    stream = stream_of(3, 0, 1, 2)
    assert stream.targets.tolist() == [1, 2, 3, 4, 5, 6]
    assert stream.inputs.tolist() == [RESERVED, 1, 2, RESERVED, RESERVED, 5]
    assert stream.starts.tolist() == [True, False, False, True, True, False]
    with pytest.raises(ArgumentError):
        stream_of(0)


def test_training_chunks_are_contiguous_and_reset_at_borders():
    stream = stream_of(500, 300, 250)
    chunks = TrainingChunks(stream, rows=4, steps=20, seed=3)
    assert chunks.chunks_a_pass == 13
    first_tokens = {1, 501, 801}
    for turn in range(3):
        seen: Counter[int] = Counter()
        last = None
        for place in range(chunks.chunks_a_pass):
            inputs, targets, reset = chunks.chunk(turn * chunks.chunks_a_pass + place)
            assert inputs.shape == targets.shape == (4, 20)
            begins = np.isin(targets, list(first_tokens))
            assert (inputs == np.where(begins, RESERVED, targets - 1)).all()
            expected = begins.copy()
            expected[:, 0] |= place == 0
            assert ((reset if reset is not None else np.zeros_like(begins)) == expected).all()
            if last is not None:
                follows = np.where(begins[:, 0], last, inputs[:, 0])
                assert (follows == last).all()
            last = targets[:, -1]
            seen.update(targets.ravel().tolist())
        assert max(seen.values()) == 1
        assert len(seen) == 4 * 20 * 13


def test_training_chunks_depend_on_their_number_and_the_seed_only():
    stream = stream_of(500)
    a, b = (TrainingChunks(stream, rows=4, steps=20, seed=3) for _ in range(2))
    later = b.since(9)
    for number in (9, 10, 11):
        assert (a.chunk(number).targets == next(later).targets).all()
    other = TrainingChunks(stream, rows=4, steps=20, seed=4)
    assert (a.chunk(0).targets != other.chunk(0).targets).any()


@pytest.mark.parametrize(("length", "rows", "steps"), [(1, 1, 1), (7, 1, 7), (50, 2, 20), (30, 1, 20)])
def test_a_short_stream_has_fewer_rows_and_steps(length, rows, steps):
    chunks = TrainingChunks(stream_of(length), rows=32, steps=20, seed=0)
    assert (chunks.rows, chunks.steps) == (rows, steps)
    assert chunks.chunk(5).inputs.shape == (rows, steps)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 40))
def test_exact_rows_predict_every_token_once_in_order(lengths, rows, steps):
    stream = stream_of(*lengths)
    reading = exact_rows(stream, rows=rows)
    assert reading.predicted == len(stream)
    chunks = reading.chunks(steps)
    inputs, targets = (np.concatenate([chunk[i] for chunk in chunks], axis=1) for i in (0, 1))
    scored = targets != IGNORED
    assert sorted(targets[scored].tolist()) == stream.targets.tolist()
    # A document stands in one row, whole, so a token's neighbour in its row is its neighbour in the document.
    begins = np.isin(targets, stream.targets[stream.starts])
    assert (inputs[scored & ~begins] == targets[scored & ~begins] - 1).all()
    assert (inputs[begins] == RESERVED).all()
    assert (reading.reset == begins).all()
    assert len(lengths) > 1 or reading.inputs.shape[0] == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 6), st.integers(1, 200), st.integers(0, 20))
def test_sampled_rows_predict_no_token_twice(lengths, rows, tokens, warm_up):
    stream = stream_of(*lengths)
    reading = sampled_rows(stream, rows=rows, tokens=tokens, warm_up=warm_up)
    scored = reading.targets[reading.targets != IGNORED].tolist()
    assert len(scored) == len(set(scored)) == reading.predicted
    if tokens >= len(stream):
        assert sorted(scored) == stream.targets.tolist()
    else:
        assert reading.predicted <= max(tokens, rows)
    assert reading.inputs.shape[1] >= 1
