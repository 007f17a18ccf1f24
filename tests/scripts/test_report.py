# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MACHINE = {"cpu": "a processor", "cores": 2}


def load(name):
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location(f"{name}_script", SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def figures(first):
    return {"R@1": first, "R@3": 60.0, "R@5": 70.0, "MRR": 55.5, "Acc": 80.25, "samples": 400}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    (folder / "moji").mkdir(parents=True)
    (folder / "causal").mkdir()

    def write(name, value):
        (folder / name).write_text(json.dumps(value))

    for seed, first in ((0, 41.0), (1, 44.0)):
        chance = {"R@1": 9.09, "R@3": 27.27, "R@5": 45.45, "MRR": 26.63}
        splits = {
            split: {"metrics": figures(first), "yardsticks": {"chance": chance}}
            for split in ("validation", "test_easy", "test_hard")
        }
        write(f"moji/seed{seed}.json", {"seed": seed, "splits": splits, "machine": MACHINE})
        training = {
            "seconds": 540, "peak_memory_mib": 2048, "recipe_file": "moji.yaml",
            "backbones": {"text": "model", "comet": None}, "machine": MACHINE,
        }  # fmt: skip
        write(f"moji/seed{seed}.training.json", training)
    write("causal/causal.json", {
        "bench": {"machine": MACHINE, "tests": [
            {"name": "weak", "rho": 0.1, "lean": 0}, {"name": "strong", "rho": 0.9, "lean": 0},
            {"name": "leaning", "rho": 0.9, "lean": 0.25}]},
        "trainings": ["0.5", "0.9"],
        "models": {name: {"title": name.upper(), "rho": {"0.9": {"seeds": [0, 1], "figures": {
            test: {"test_easy": {"all": {"R@1": values} | ({"Acc": [9]} if name != "clip" else {})}}
            for test, values in (("strong", [40.0, 44.0]), ("weak", [30.0, 38.0]))
        }}}} for name in ("cks", "as_published", "clip", "mod_gpt", "mmbert")},
    })  # fmt: skip
    shown = {"splits": {"test_easy": {"metrics": figures(30.25), "yardsticks": {}}}}
    write("demo.json", {"total_seconds": 103.6, "results": shown, "machine": MACHINE})
    runtimes = {"torch": 30.0, "onnx_int8": 10.4}
    write("onnx.json", {
        "data": {"rows": 50, "split": "validation"}, "machine": MACHINE,
        "largest_difference": {"scores": 2e-6},
        "mib": {"onnx_int8": {"rank": 4.0, "dialogue": 2.2}},
        "metrics": {name: figures(44.5) for name in runtimes},
        "latency": {"rows": 9, "threads": 1, "median_ms": {
            "known_stickers": runtimes, "new_stickers": {"torch": 60.0, "onnx_int8": 20.6}}},
    })  # fmt: skip
    one = {
        "measurement": "rank", "size": "full", "seconds": 1.5, "rows_per_second": 7.25,
        "peak_memory_mib": 3000.4,
    }  # fmt: skip
    write("benchmark.json", {"results": [one], "machine": MACHINE})
    return folder


def test_the_readme_gets_the_figures_of_the_files_and_keeps_the_rest(results, tmp_path, capsys):
    report = load("report")
    readme = tmp_path / "README.md"
    marked = "before\n<!-- measured:begin (by a script) -->\nold\n<!-- measured:end -->\nend"
    readme.write_text(marked)
    arguments = ["--results", str(results), "--readme", str(readme)]
    assert report.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- measured:begin (by a script) -->\n**Human")
    assert text.endswith("<!-- measured:end -->\nend") and "old" not in text
    assert "| CKS | test_hard | 42.5 (41.0, 44.0) | 60.0 | 70.0 | 55.5 | 80.2 |" in text
    assert "| chance | validation | 9.1 | 27.3 | 45.5 | 26.6 | - |" in text
    assert "from scratch: 104 s after" in text and "| CKS | test_easy | 30.2 |" in text
    assert "probability 0.9, judged where it does with 0.9, 0.1;" in text
    assert "| CKS | 0, 1 | 42.0, 34.0 | 40.0 to 30.0; 44.0 to 38.0 | 9.0 to 9.0 |" in text
    assert "| CLIP | 0, 1 | 42.0, 34.0 | 40.0 to 30.0; 44.0 to 38.0 | - |" in text
    assert "| rank | full | 1.500 | 7.250 | 3000 |" in text
    assert "| torch | 44.5 | 55.5 | - | 30 | 60 |" in text
    assert "| onnx_int8 | 44.5 | 55.5 | 6 | 10 | 21 |" in text and "by 2e-06 at most" in text
    report.main(arguments)
    assert readme.read_text() == text


@pytest.mark.parametrize(
    "missing",
    ["moji/seed1.training.json", "causal/causal.json", "demo.json", "onnx.json", "benchmark.json"],
)
def test_a_missing_result_is_an_error_and_no_figure(results, missing, tmp_path):
    (results / missing).unlink()
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        load("report").render(results)


def test_a_model_that_the_bench_lacks_is_an_error(results):
    path = results / "causal" / "causal.json"
    found = json.loads(path.read_text())
    del found["models"]["mmbert"]
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match="has no figures of mmbert"):
        load("report").render(results)


def test_a_readme_without_markers_is_refused(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing here")
    with pytest.raises(ValueError, match="markers"):
        load("report").main(["--results", str(results), "--readme", str(readme)])
    assert readme.read_text() == "nothing here"


def test_the_table_of_choices_is_that_of_its_cells(tmp_path):
    choices = load("choices")
    cells = tmp_path / "cells"
    cells.mkdir()
    for name, seed, first in (("recipe", 0, 30.0), ("recipe", 1, 33.0), ("joint_attention", 0, 31)):
        cell = {
            "validation": figures(first), "machine": MACHINE, "recipe_file": "moji.yaml",
            "recipe": {"training": {"num_train_epochs": 1}}, "backbones": {"text": "model"},
            "data": {"fingerprint": "f" * 64},
        }  # fmt: skip
        (cells / f"{name}-seed{seed}.json").write_text(json.dumps(cell))
    page = tmp_path / "docs" / "choices.md"
    arguments = ["moji.yaml", "--data", "data", "--results", str(cells), "--page", str(page)]
    arguments += ["--only-render", "--variants", "recipe", "joint_attention", "full_noise"]
    assert choices.main(arguments) == 0
    lines = page.read_text().splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert "31.50 (30.0, 33.0) | 60.00 | 70.00 | 55.50 (55.5, 55.5) | 80.25 | 2 |" in rows["recipe"]
    assert rows["joint_attention"].endswith("| 1 |")
    assert rows["full_noise"].count("missing") == 6
    # sqrt(0.3 * 0.7 / 400) = 0.0229
    assert any("is 2.3 points" in line for line in lines)
    for cell in cells.iterdir():
        cell.unlink()
    with pytest.raises(ValueError, match="no finished cell"):
        choices.main(arguments)
