"""`recurra stream` on pipes: answers as input comes, closed pipes, Ctrl-C, and what is refused."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import recurra
from recurra import nn, runtime
from recurra.cli import OUTPUT_CLOSED
from test_runtime import saved_model


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recurra.cli", "stream", str(folder)]
    # a shell without a terminal may have told its children to ignore Ctrl-C
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=heed)


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


def test_what_cannot_be_streamed_is_said_in_one_line(frames: Path, tmp_path: Path):
    recurra.save_layer(nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2)), tmp_path / "both")
    for folder, given, message in (
        (frames, bytes(13), b"the input ends with 1 bytes: expected frames of 12 bytes, float32"),
        (tmp_path / "both", b"", b"the model cannot stream: expected whole sequences"),
        (tmp_path / "none", b"", b"is not a saved model"),
    ):
        with start(folder) as process:
            _, problems = process.communicate(given, timeout=60)
        assert process.returncode == 2
        assert message in problems
        assert problems.count(b"\n") == 1
