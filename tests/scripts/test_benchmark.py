# SPDX-License-Identifier: Apache-2.0
"""Every comparison at tiny size: what is written and rendered, never how long it took."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SCRIPT = SCRIPTS / "benchmark.py"
HEADLINE = {"measurement", "size", "seconds", "rows_per_second", "peak_memory_mib"}


def run(*arguments, cwd):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def module():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield lambda name: importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One quick run of everything: (results file, what it printed)."""
    folder = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--repeats", 1, "--output", folder / "results.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["results.json"]
    return folder / "results.json", done.stdout


@pytest.fixture
def read(quick):
    return json.loads(quick[0].read_text())


def test_everything_is_measured_with_its_evidence(quick, read, module):
    comparisons = module("benchmark").COMPARISONS
    assert tuple(read["comparisons"]) == comparisons
    assert {"versions", "git", "machine", "time"} <= read.keys()
    for name, found in read["comparisons"].items():
        assert found["rows"], name
        assert found["arguments"]["quick"] is True and found["arguments"]["sizes"] == ["tiny"]
        assert module(f"_benchmark_{name}").TITLE in quick[1]
        for row in found["rows"]:
            assert row.get("seconds", 1) > 0
    # Of another comparison's options nothing depends on them.
    assert "index_rows" not in read["comparisons"]["data"]["arguments"]
    assert read["results"] and all(one.keys() == HEADLINE for one in read["results"])


def test_a_turn_of_a_chat_costs_what_it_must(read):
    rows = read["comparisons"]["conversation"]["rows"]
    few = {
        row["contestant"]: row for row in rows if row["candidates"] == 11 and row["tokens"] == 96
    }
    many = {row["contestant"]: row for row in rows if row["candidates"] == 307}
    # Counted, not timed: what is kept is not computed again, and what is not judged not at all.
    assert few["CKS, no memory"]["gflop"] > few["CKS, conversation"]["gflop"]
    assert few["CKS, conversation"]["gflop"] > few["the same, best 5 judged"]["gflop"]
    assert many["MMBERT"]["gflop"] == pytest.approx(few["MMBERT"]["gflop"] * 307 / 11)
    assert many["the same, best 5 judged"]["gflop"] == pytest.approx(
        few["the same, best 5 judged"]["gflop"]
    )
    assert {row["kind"] for row in rows if "judged" in row["contestant"]} == {"shortcut"}
    stickers = read["comparisons"]["stickers"]["rows"]
    assert [row["contestant"].partition(",")[0] for row in stickers] == ["MMBERT", "CKS", "CKS"]
    assert {row["stickers"] for row in stickers} == {307}
    # A longer dialogue is more work for all of them, and is asked of the fewest candidates only.
    long = {row["contestant"]: row for row in rows if row["tokens"] == 256}
    assert {row["candidates"] for row in long.values()} == {11}
    assert all(row["gflop"] > few[name]["gflop"] for name, row in long.items())


def test_shortcuts_stand_beside_their_loss(read):
    found = read["comparisons"]["shortcuts"]["rows"]
    exact = [row for row in found if row["best"] is None and row["precision"] == "float32"]
    assert exact and all(row["largest_difference"] <= 1e-5 for row in exact)
    assert {row["best"] for row in found if row["task"] == "given"} == {None, 1, 2, 3, 5, 8}
    assert all({"R@1", "MRR", "seconds"} <= row.keys() for row in found)


def test_the_loop_over_pairs_scores_alike(read):
    rows = {row["contestant"]: row for row in read["comparisons"]["split"]["rows"]}
    assert all(row["largest_difference"] <= 1e-5 for row in rows.values())
    for kind in ("knowledge at hand", "COMET too"):
        assert rows[f"each once, {kind}"]["gflop"] < rows[f"loop over pairs, {kind}"]["gflop"]


def test_every_image_is_decoded_once(read):
    for row in read["comparisons"]["data"]["rows"]:
        assert row["images_decoded"] == row["stickers"] == 307


def test_the_work_of_training_is_counted(read):
    rows = {row["contestant"]: row for row in read["comparisons"]["training"]["rows"]}
    frozen, whole = rows["CKS, RoBERTa and CLIP frozen"], rows["CKS"]
    assert 0 < frozen["gflop_per_sample"] < whole["gflop_per_sample"]
    together, apart = rows["MMBERT"], rows["MMBERT, a pass for each task"]
    assert together["gflop_per_sample"] < apart["gflop_per_sample"]
    assert [one["processes"] for one in read["comparisons"]["training"]["processes"]] == [1, 2]


def test_the_page_is_rendered_from_the_results_alone(quick, read, module, tmp_path):
    page = tmp_path / "docs" / "speed.md"
    done = run("--output", quick[0], "--page", page, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    for name in read["comparisons"]:
        assert f"\n## {module(f'_benchmark_{name}').TITLE}\n" in text
    assert "## What else was tried" in text and "None" not in text and "nan" not in text
    assert (page.parent / "images" / "index.png").read_bytes().startswith(b"\x89PNG")
    assert "(images/index.png)" in text

    del read["comparisons"]["data"]["rows"][0]["peak_memory_mib"]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(read))
    before = page.read_bytes()
    done = run("--output", broken, "--page", page, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last == "benchmark.py: the results of data lack a value: KeyError('peak_memory_mib')"
    del read["comparisons"]["data"]
    broken.write_text(json.dumps(read))
    done = run("--output", broken, "--page", page, cwd=tmp_path)
    assert done.returncode == 2 and "the results lack data" in done.stderr
    assert page.read_bytes() == before


def test_what_is_there_is_kept_and_the_rest_measured(quick, read, tmp_path):
    output = tmp_path / "results.json"
    changed = json.loads(json.dumps(read))
    changed["comparisons"]["ceilings"]["mark"] = 1
    del changed["comparisons"]["data"]
    output.write_text(json.dumps(changed))
    arguments = ["ceilings", "--quick", "--repeats", 1, "--output", output]
    assert run(*arguments, "--keep", cwd=tmp_path).returncode == 0
    again = json.loads(output.read_text())["comparisons"]
    assert again["ceilings"]["mark"] == 1 and again["index"] == read["comparisons"]["index"]
    assert run(*arguments, "--seed", 3, "--keep", cwd=tmp_path).returncode == 0
    again = json.loads(output.read_text())["comparisons"]
    assert "mark" not in again["ceilings"] and again["ceilings"]["arguments"]["seed"] == 3
    assert again["index"] == read["comparisons"]["index"] and "data" not in again


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeats", "0"], "--repeats must be at least 1, not 0"),
        (["speed"], "there is no comparison 'speed', only ceilings, "),
        (["--page", "page.md"], "runs/benchmark.json: no such file; measure first"),
        (["ceilings", "--output", "broken.json"], "broken.json: not the results of benchmark.py"),
        (
            ["shortcuts", "--shortcuts-model", "none", "--shortcuts-data", "none"],
            "measuring shortcuts failed: benchmark.py: none: no such folder",
        ),
    ],
)
def test_bad_arguments_end_in_one_line(arguments, says, tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith(f"benchmark.py: {says}")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"]


def test_contestants_take_turns_and_the_first_round_is_not_told(module):
    calls = []

    def contestant(name):
        def go(number):
            calls.append((name, number))
            return {"a": float(number), "b": 10.0 * number}

        return go

    found = module("_benchmark").alternate({"x": contestant("x"), "y": contestant("y")}, 3)
    assert calls == [(name, number) for number in range(4) for name in "xy"]
    assert found["x"] == {
        "seconds": 22.0, "all_seconds": [11.0, 22.0, 33.0], "stages": {"a": 2.0, "b": 20.0}
    }  # fmt: skip


def test_work_is_counted_and_growth_fitted(module):
    import torch

    linear = torch.nn.Linear(8, 16)
    assert module("_benchmark").flops(lambda: linear(torch.ones(3, 8))) == 2 * 3 * 8 * 16
    slope = module("_benchmark").slope
    assert slope([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_tables_are_laid_out(module):
    common = module("_benchmark")
    assert common.lines(["a", "b"], [["long", 1.5], ["s", None]]) == (
        "a         b\nlong  1.500\ns         -"
    )
    assert common.markdown(["a", "b"], [["x|y", 12345]]) == (
        "| a | b |\n| --- | --- |\n| x/y | 12,345 |"
    )
    assert [common.shown(x) for x in (0.0, 1e-5, 9.5, 99.5, 999.5, 12345.6, True)] == [
        "0.000", "1.0e-05", "9.500", "99.50", "999.5", "12,346", "True",
    ]  # fmt: skip


def test_dialogues_are_as_long_as_asked(module):
    models = module("_benchmark_models")
    _, processor, _ = models.build_cks("tiny")
    one, other = models.dialogue(96, 1), models.dialogue(96, 2)
    assert one != other and models.dialogue(96, 1) == one
    for turns in (one, other):
        assert processor.encode_dialogues([turns], knowledge=False)[
            "dialogue_attention_mask"
        ].sum() == 96  # fmt: skip
    said = models.utterance(16, "x")
    assert processor.encode_dialogues([[{"speaker": 0, "text": said}]], knowledge=False)[
        "dialogue_attention_mask"
    ].sum() == 16  # fmt: skip


def test_drawn_features_lie_as_they_should(module):
    index = module("_benchmark_index")
    lie = index._LIE
    stickers = np.concatenate(list(index.Simulation(lie, 3000, 0).blocks()))
    assert stickers.shape == (3000, 768)
    again = np.concatenate(list(index.Simulation(lie, 3000, 0).blocks()))
    assert np.array_equal(stickers, again)
    # Measured on as many as the model's were, over several draws.
    drawn = [index.Simulation(lie, 330, seed).measured(300) for seed in range(6)]
    for name, within in {
        "v_dimensions": 0.15, "v_mean": 0.06, "v_nearest": 0.05, "v_median": 0.15, "norm": 0.02,
        "h_dimensions": 0.2, "h_mean": 0.03, "means_cosine": 0.1, "h_to_v_best": 0.15,
        "h_to_v_10th": 0.1, "h_to_v_median": 0.3,
    }.items():  # fmt: skip
        found = np.mean([each[name] for each in drawn])
        assert found == pytest.approx(lie[name], rel=within), name
    for name in ("v_bands", "h_bands", "h_mean_bands"):
        found = np.mean([each[name] for each in drawn], axis=0)
        assert np.abs(found - lie[name]).max() < 0.1, name
        assert found.sum() == pytest.approx(1, abs=1e-4)


def test_bands_share_out_what_there_is(module):
    index = module("_benchmark_index")
    whole = np.zeros((2, 768))
    whole[:, [0, 3, 300]] = [[3, 0, 4], [0, 5, 0]]
    # The first 256 axes are known; what lies along none of them is the last band's.
    assert index._bands(whole[:, :256], whole) == pytest.approx(
        [9 / 50, 25 / 50, 0, 0, 0, 0, 0, 0, 16 / 50]
    )


def test_the_error_of_processes_is_told_and_not_what_torchrun_adds(module, tmp_path):
    common = module("_benchmark")
    script = tmp_path / "part.py"
    script.write_text("print('done')")
    assert common.in_processes(2, [script]).count("done") == 2
    script.write_text("import sys\nsys.exit('part.py: no such folder')")
    with pytest.raises(ValueError, match=r"2 processes of part\.py failed: part\.py: no such fold"):
        common.in_processes(2, [script])
    script.write_text("import os\nif os.environ['RANK'] == '1':\n    raise KeyError('mark')")
    with pytest.raises(ValueError, match=r"failed: (\[rank1\]: )?KeyError: 'mark'$"):
        common.in_processes(2, [script])
    script.write_text("import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(ValueError, match=r"1 process of part\.py failed: .*exitcode: -9"):
        common.in_processes(1, [script])
    assert common.cause("") == "it said nothing"
