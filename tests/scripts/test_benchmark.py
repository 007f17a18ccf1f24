# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"
MEASUREMENTS = ["prepare", "train_step", "rank_new_stickers", "rank_known_stickers"]


def run(*arguments, cwd):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_quick_run_writes_every_measurement_and_its_evidence(tmp_path):
    pytest.importorskip("rapidocr")
    output = tmp_path / "results.json"
    done = run("--quick", "--sizes", "tiny", "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    assert [one["measurement"] for one in written["results"]] == MEASUREMENTS
    for one in written["results"]:
        assert one["size"] == "tiny" and one["rows"] > 0
        assert len(one["all_seconds"]) == 2 and min(one["all_seconds"]) > 0
        assert min(one["all_seconds"]) <= one["seconds"] <= max(one["all_seconds"])
        assert all(seconds > 0 for seconds in one["stages"].values())
        assert one["rows_per_second"] == pytest.approx(one["rows"] / one["seconds"])
        assert one["peak_memory_mib"] >= one["peak_memory_ready_mib"] > 0
        assert one["measurement"] in done.stdout
    prepared, step, new, known = written["results"]
    assert set(step["stages"]) == {"forward", "backward", "optimizer"}
    assert set(new["stages"]) == {"ocr", "knowledge", "processor", "model"}
    assert set(known["stages"]) == {"knowledge", "processor", "model"}
    assert new["candidates"] == known["candidates"] == 11
    assert step["parameters"] == new["parameters"] == known["parameters"]
    assert {"versions", "git", "machine", "time", "arguments"} <= written.keys()
    assert written["arguments"]["sizes"] == ["tiny"]
    # Each measurement has its own process, so the lightest does not carry the heaviest's peak.
    assert prepared["peak_memory_mib"] < new["peak_memory_mib"]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("arguments", [("--repeats", "0"), ("--batch-size", "0")])
def test_bad_arguments_end_in_one_line(arguments, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == "benchmark.py: --repeats and --batch-size must be at least 1"
    assert not list(tmp_path.iterdir())
