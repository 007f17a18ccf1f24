# SPDX-License-Identifier: Apache-2.0
"""The server as a process: it says where it listens, answers, and stops when told."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import tiny_cks

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "serve.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    model, processor = tiny_cks(folder)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "stickers").mkdir()
    draw = np.random.default_rng(0)
    for number in range(3):
        pixels = draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "stickers" / f"{number}.png")
    return folder


def run(*arguments, **more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more,
    )  # fmt: skip


def test_it_listens_answers_and_stops(world):
    server = run(
        world / "model", "--stickers", world / "stickers", "--port", 0, "--packed", "float32",
        "--match-best", 2,
    )  # fmt: skip
    try:
        said = server.stdout.readline()
        found = re.fullmatch(r"3 stickers on (http://127\.0\.0\.1:\d+/select)\n", said)
        assert found, (said, server.poll() is not None and server.stderr.read())
        body = json.dumps({"dialogue": ["so happy today", "oh no"]}).encode()
        with urllib.request.urlopen(found[1], body, timeout=60) as answer:
            stickers = json.load(answer)["stickers"]
        assert sorted(each["name"] for each in stickers) == ["0.png", "1.png", "2.png"]
        assert stickers[1]["score"] > 0 > stickers[2]["score"]
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
        # What waited is answered; then the signal has its usual end.
        assert "Traceback" not in errors and server.returncode == -signal.SIGTERM
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none", "--stickers", "stickers"], "none: there is no model"),
        (["model", "--stickers", "none"], "there is no folder of stickers at none"),
        (["model", "--stickers", "stickers", "--match-best", "0"], "--match-best must be"),
        (["none", "--stickers", "none", "--max-batch", "0"], "--max-batch must be at least 1"),
    ],
)
def test_bad_arguments_end_in_one_line(world, arguments, says):
    done = run(*arguments, cwd=world)
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 2 and "Traceback" not in errors
    assert says in errors.strip().splitlines()[-1]
