"""`recurra stream` on pipes, of saved models and ONNX files: answers as input comes, closed pipes, Ctrl-C, refusals."""

import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import layers
import recurra
import recurra.onnx
from onnx_models import node_of
from recurra import nn, runtime
from recurra.cli import OUTPUT_CLOSED, main
from recurra.data import Vocabulary
from recurra.tasks import LanguageModel
from small_weights import save
from test_runtime import saved_model


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recurra.cli", "stream", str(folder)]
    # a shell without a terminal may have told its children to ignore Ctrl-C
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=heed)


def written(model: nn.Layer | LanguageModel | recurra.onnx.Parts, path: Path) -> Path:
    """Its ONNX file."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is an extra: pip install 'recurra[onnx]'")
    return recurra.onnx.export(model, path).path


def answered(model: Path, given: bytes) -> bytes:
    """What `recurra stream` writes for this input."""
    with start(model) as process:
        answer, problems = process.communicate(given, timeout=60)
    assert process.returncode == 0, problems
    return answer


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A saved layer that reads 3 columns and puts out 2."""
    recurra.save_layer(nn.Stack(nn.GRU(3, 4), nn.GRU(4, 2)), tmp_path / "frames")
    return tmp_path / "frames"


def test_frames_are_answered_when_they_come(frames: Path):
    x = np.random.default_rng(0).standard_normal((7, 3)).astype("<f4")
    expected = runtime.load(frames).stream().push(x)
    with start(frames) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        raw, got = x.tobytes(), b""
        # the second piece ends within a frame
        for begin, end, answered in ((0, 12, 1), (12, 41, 2), (41, 84, 4)):
            process.stdin.write(raw[begin:end])
            process.stdin.flush()
            got += process.stdout.read(8 * answered)
        process.stdin.close()
        assert process.wait(60) == 0
    np.testing.assert_allclose(np.frombuffer(got, "<f4").reshape(7, 2), expected, rtol=1e-5)


def test_lines_come_back_with_their_bits(tmp_path: Path):
    saved_model(tmp_path)
    with start(tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in ("abc\n", "\n", "猫 ab\n"):
            process.stdin.write(line.encode())
            process.stdin.flush()
            bits, back = process.stdout.readline().decode().split("\t")
            assert back == line
            assert 0 < float(bits) < 20
        process.stdin.write(b"\xff no end")
        process.stdin.close()
        assert process.stdout.readline().endswith(b"\xff no end\n")
        assert process.wait(60) == 0


def test_frames_of_an_onnx_file_are_those_of_the_saved_model(frames: Path, tmp_path: Path):
    layer = recurra.load(frames)
    assert isinstance(layer, nn.Layer)
    x = np.random.default_rng(0).standard_normal((9, 3)).astype("<f4")
    expected = runtime.load(frames).stream().push(x)
    for kind, model in (("single", layer), ("double", layer.double())):
        got = answered(written(model, tmp_path / f"{kind}.onnx"), x.tobytes())
        np.testing.assert_allclose(np.frombuffer(got, "<f4").reshape(9, 2), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", ["char", "word"])
def test_a_language_model_reads_and_writes_text_from_its_onnx_file(unit: str, tmp_path: Path):
    model = saved_model(tmp_path / "run", unit)
    path = written(model, tmp_path / "model.onnx")
    text = "abc\n猫 ab a\n".encode()
    lines = [answered(one, text).decode().split("\n") for one in (path, tmp_path / "run")]
    for own, theirs in zip(*lines, strict=True):
        (bits, _, line), (expected, _, wanted) = own.partition("\t"), theirs.partition("\t")
        assert line == wanted
        assert float(bits or 0) == pytest.approx(float(expected or 0), abs=0.0011)
    command = [sys.executable, "-m", "recurra.cli", "generate", "--prompt", "ab", "--length", "20", "--temperature"]
    pages = [
        subprocess.run([*command, "0", str(one)], check=True, capture_output=True).stdout
        for one in (path, tmp_path / "run")
    ]
    assert pages[0] == pages[1]


def test_a_closed_pipe_and_ctrl_c_end_it_without_a_traceback(frames: Path):
    with start(frames) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(bytes(12))
        process.stdin.flush()
        process.stdout.read(8)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()
    with start(frames) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(bytes(120))
        process.stdin.close()
        assert process.wait(60) == OUTPUT_CLOSED
        assert process.stderr.read() == b""


def test_lines_end_as_in_the_texts_that_models_are_trained_on(tmp_path: Path):
    model = LanguageModel.build(Vocabulary("char", list("ab\n")), cell="gru", hidden=4, layers=1, embedding=4)
    save(model, tmp_path)
    answers = []
    for given in (b"ab\nab\n", b"ab\r\nab\r\n"):
        with start(tmp_path) as process:
            answers.append(process.communicate(given, timeout=60)[0])
    assert answers[1].count(b"\tab\r\n") == 2
    assert answers[1].replace(b"\r", b"") == answers[0]


@pytest.mark.parametrize(("redirection", "message"), [("<&-", b"input is closed"), (">&-", b"output is closed")])
def test_pipes_that_the_shell_has_closed_are_named(tmp_path: Path, redirection: str, message: bytes):
    recurra.save_layer(nn.GRU(3, 4), tmp_path)
    command = f"{shlex.quote(sys.executable)} -m recurra.cli stream {shlex.quote(str(tmp_path))} {redirection}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count(b"\n") == 1


def test_what_cannot_be_streamed_is_said_in_one_line(frames: Path, tmp_path: Path):
    recurra.save_layer(nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2)), tmp_path / "both")
    for folder, given, message in (
        (
            frames,
            bytes(13),
            b"ends within a frame, after 1 of its bytes: expected frames of 12 bytes, float32",
        ),
        (tmp_path / "both", b"", b"the model cannot stream: expected whole sequences"),
        (tmp_path / "none", b"", b"is not a saved model"),
    ):
        with start(folder) as process:
            _, problems = process.communicate(given, timeout=60)
        assert process.returncode == 2
        assert message in problems
        assert problems.count(b"\n") == 1


def test_onnx_files_that_cannot_be_streamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    embedding = torch.nn.Embedding(9, 3)
    (tmp_path / "note.onnx").write_text("no model")
    (tmp_path / "theirs.onnx").write_bytes(node_of("GRU", parts="bi")[0].SerializeToString())
    good = written(nn.GRU(3, 2), tmp_path / "good.onnx")

    def refused(path: Path, message: str, command: str = "stream") -> None:
        with pytest.raises(SystemExit) as caught:
            main([command, str(path)])
        assert caught.value.code == 2
        problems = capsys.readouterr().err
        assert message in problems
        assert problems.count("\n") == 1

    refused(tmp_path / "note.onnx", "ONNX Runtime does not open the file")
    refused(tmp_path / "none.onnx", "is not there: expected a file")
    refused(tmp_path / "theirs.onnx", "the states of this file cannot be told")
    refused(written(nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2)), tmp_path / "both.onnx"), "the model cannot stream")
    tokens = written(recurra.onnx.Parts(nn.GRU(3, 2), embedding.weight), tmp_path / "tokens.onnx")
    refused(tokens, "the model reads tokens, and its file has no vocabulary")
    refused(written(nn.Recurrent(layers.leaky, 3, 2), tmp_path / "times.onnx"), "the time between steps")
    refused(good, "is no language model", "generate")
    monkeypatch.setattr("recurra.onnx.packages.find_spec", lambda name: None)
    refused(good, "onnxruntime is not installed. Install it with: pip install 'recurra[onnx]'")
