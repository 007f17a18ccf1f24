# SPDX-License-Identifier: Apache-2.0
"""The script: real folders in, cards beside them, whose snippets run."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from card_numbers import numbers_in, split_card, unexplained
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard, metadata_load
from PIL import Image
from release_files import EMOTIONS, ReleaseFiles, picture
from test_model_card import whole_records
from tiny_model import tiny_cks

from dataset_mod import prepare
from dataset_mod.statistics import describe
from hub_cards import contact_sheet

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONFIGS = ("en", "stickers")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("render_cards", SCRIPTS / "render_cards.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def prepared(folder, **options):
    return prepare(ReleaseFiles().write(folder / "release"), folder / "data", **options)


def python_blocks(card, repo, folder):
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.M | re.S)
    assert all(repo in block for block in blocks)
    return [block.replace(f'"{repo}"', repr(str(folder))) for block in blocks]


# --- the dataset's card


def test_load_dataset_reads_the_folder_as_before(script, tmp_path):
    prepared(tmp_path)
    folder = tmp_path / "data"

    def loaded(name):
        cache = str(tmp_path / name)
        return {config: load_dataset(str(folder), config, cache_dir=cache) for config in CONFIGS}

    before = loaded("before")
    metadata = metadata_load(folder / "README.md")
    arguments = ["dataset", str(folder), "--repo", "org/little-mod", "--licence", "other"]
    assert script.main([*arguments, "--terms", "For research only."]) == 0
    after = loaded("after")
    for config in CONFIGS:
        assert list(after[config]) == list(before[config])
        for split, table in before[config].items():
            assert after[config][split].features == table.features
            assert after[config][split].to_list() == table.to_list() and table.num_rows
    # The default configuration is still the language.
    assert set(load_dataset(str(folder), cache_dir=str(tmp_path / "after"))) == set(before["en"])

    card = DatasetCard.load(folder / "README.md")
    new = metadata_load(folder / "README.md")
    assert {key: new[key] for key in ("configs", "dataset_info", "language")} == {
        key: metadata[key] for key in ("configs", "dataset_info", "language")
    }
    assert (card.data.license, card.data.pretty_name) == ("other", "little-mod")
    assert card.data.size_categories == ["n<1K"]
    assert "\nFor research only.\n" in card.text

    sheet = Image.open(folder / "stickers.png")
    images = before["stickers"]["train"]["image"]
    assert np.array_equal(np.array(sheet), np.array(contact_sheet(images[:])))
    assert "![Stickers, in the order of their ids](stickers.png)" in card.text

    written = {name: (folder / name).read_bytes() for name in ("README.md", "stickers.png")}
    assert script.main([*arguments, "--terms", "For research only."]) == 0
    assert {name: (folder / name).read_bytes() for name in written} == written
    (snippet,) = python_blocks(card.content, "org/little-mod", folder)
    exec(snippet.replace("load_dataset(", "load_cached("), {"load_cached": load_in(tmp_path)})


def load_in(folder):
    return lambda *names, **options: load_dataset(*names, **options, cache_dir=str(folder / "c"))


def test_every_number_of_the_datasets_card_is_in_a_record(script, tmp_path):
    files = ReleaseFiles()
    files.json[files.train]["dialogue 11"] = [{"speaker_id": 3, "txt": "hm"}]
    files.json[files.train]["dialogue 12 | x"] = [{"speaker_id": "nobody", "txt": "hm"}]
    files.json[files.task2["test_easy"]][0]["answer"] = ""
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"003": "hello", "004": "bye"}))
    folder = tmp_path / "data"
    prepare(files.write(tmp_path / "release"), folder, skip_bad=True, captions=captions)
    source = "Drawn in 1987 by 3 people."
    script.main(["dataset", str(folder), "--repo", "org/mod-9", "--licence", "cc0-1.0",
                 "--source", source])  # fmt: skip
    card = (folder / "README.md").read_text()
    statistics = json.loads((folder / "statistics.json").read_text())
    skipped = json.loads((folder / "skipped.json").read_text())
    records = (describe(folder), statistics, skipped, metadata_load(folder / "README.md"))
    given = ("org/mod-9", "mod-9", "cc0-1.0", source)
    assert len(numbers_in(split_card(card)[1])) > 80
    assert unexplained(card, *records, *given) == []
    assert unexplained(card.replace("| train | 4 |", "| train | 9876 |"), *records, *given) == [
        "9876"
    ]
    assert f"\n{source}\n" in card and "\n- broken records: 2, listed in `skipped.json`" in card
    assert len(skipped) == 2
    for one in skipped:
        (line,) = [line for line in card.splitlines() if line.startswith(f"| {one['file']} |")
                   and one["record"].replace("|", "\\|") in line]  # fmt: skip
        assert len(re.split(r"(?<!\\)\|", line)) == 5
    # A sample without its answer has lost its label too; another never had one.
    assert re.search(r"^\| test_easy \| 3 \| 2 \| 1 \|", card, re.M)
    assert "2 with a caption" in card and "(stray.png)" in card
    assert "the most frequent label is sad, 66.67 % of the labelled samples" in card
    assert "the most frequent sticker, 000, is the answer of 75.00 %" in card
    assert "| sad | 1 | 2 | 66.67 |" in card and "| sad | 3 | 66.67 |" in card


def test_two_languages_and_more_stickers_than_the_picture_shows(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SHEET_STICKERS", 5)
    files = ReleaseFiles("en")
    files.json |= ReleaseFiles("zh").json
    prepare(files.write(tmp_path / "release"), tmp_path / "data", languages=["zh", "en"])
    arguments = ["dataset", str(tmp_path / "data"), "--repo", "org/mod", "--licence", "other"]
    script.main(arguments)
    card = DatasetCard.load(tmp_path / "data" / "README.md")
    assert card.data.language == ["zh", "en"]
    assert "Configuration `zh` (Chinese), the default:" in card.text
    assert "Configuration `en` (English):" in card.text
    assert "The first 5 stickers of 14:" in card.text
    assert card.text.count("| test_hard | 1 |") == 2
    assert Image.open(tmp_path / "data" / "stickers.png").width == 5 * 68 + 4
    # Prepared again the folder is whole without the card, and takes it again.
    prepare(tmp_path / "release", tmp_path / "data", languages=["en"])
    script.main(arguments)
    assert "Configuration `zh`" not in (tmp_path / "data" / "README.md").read_text()


def test_data_that_code_drew_and_data_of_chats_without_emotions(script, tmp_path):
    prepared(tmp_path)
    folder = tmp_path / "data"
    statistics = json.loads((folder / "statistics.json").read_text())
    arguments = ["dataset", str(folder), "--repo", "org/mod", "--licence", "cc0-1.0"]

    def rendered(**changes):
        (folder / "statistics.json").write_text(json.dumps({**statistics, **changes}))
        script.main(arguments)
        return DatasetCard.load(folder / "README.md").text

    plain, drawn = rendered(), rendered(generator="a drawing machine")
    assert "MOD itself are for research" in plain and "not by people" not in plain
    assert "(`a drawing machine`), not by people" in drawn
    assert "MOD itself are for research" not in drawn
    chats = rendered(left_out={"stickers on a first turn": 77}, emotions=[])
    assert "\n- stickers on a first turn: 77;\n" in chats and "`prepare_chats.py`" in chats
    assert "## Emotions" in plain and "co-occur" in plain and "`prepare_mod.py`" in plain
    assert "## Emotions" not in chats and "co-occur" not in chats
    assert "In training (`en`) the most frequent sticker, 000, is the answer of 75.00 %" in re.sub(
        r"\s+", " ", chats
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace("dataset_info:", "other:"), "there is no dataset_info"),
        (lambda text: text.replace("num_examples: 4", "num_examples: 5"), "en train has 5 rows"),
        (lambda text: text.replace("name: turn", "name: round"), "en has other columns .* round"),
        (lambda text: text.replace("config_name: en", "config_name: zh"), "dataset_info has no en"),
        (lambda text: "", "there is no dataset_info"),
        (lambda text: None, "missing; prepare the data again"),
    ],
)
def test_a_card_that_does_not_fit_the_data_is_an_error_and_stays(script, tmp_path, spoil, says):
    prepared(tmp_path)
    readme = tmp_path / "data" / "README.md"
    spoiled = spoil(readme.read_text())
    readme.write_text(spoiled) if spoiled is not None else readme.unlink()
    with pytest.raises(ValueError, match=rf"README\.md: .*{says}"):
        script.main(["dataset", str(readme.parent), "--repo", "org/mod", "--licence", "other"])
    assert not (readme.parent / "stickers.png").exists()
    assert (readme.read_text() if readme.exists() else None) == spoiled


# --- the model's card


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model with its COMET, as train.py leaves it, and stickers to choose from."""
    folder = tmp_path_factory.mktemp("trained")
    model, processor = tiny_cks(folder, emotions=tuple(EMOTIONS))
    for each in (model, processor):
        each.save_pretrained(folder / "model")
    records = whole_records()
    (folder / "model" / "training.json").write_text(json.dumps(records["training"]))
    for number, result in enumerate(records["results"]):
        (folder / f"results{number}.json").write_text(json.dumps(result))
    (folder / "my_stickers").mkdir()
    for name in ("cry", "joy", "hm"):
        (folder / "my_stickers" / f"{name}.png").write_bytes(picture(len(name) * 70, mode="L"))
    return folder


def model_arguments(folder, *more, repo="org/cks"):
    results = sorted(map(str, folder.glob("results?.json")))
    return ["model", str(folder / "model"), "--results", *results, "--licence", "mit",
            "--repo", repo, *more]  # fmt: skip


def test_the_models_card_and_its_results_are_written(script, trained, capsys):
    folder = trained / "model"
    assert script.main(model_arguments(trained, "--dataset", "org/mod")) == 0
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results and card.data.datasets == ["org/mod"]
    # The paper's figures of the file beside the script.
    assert "| CKS in the paper, on MOD | 23.75 | 52.72 | 72.01 | 43.87 | 41.77 |" in card.text
    entries = yaml.safe_load((folder / ".eval_results" / "sticker-selection.yaml").read_text())
    assert [entry["dataset"]["id"] for entry in entries] == ["org/mod"] * 3
    capsys.readouterr()
    # Without a name of the data, results of an earlier call must not stay.
    assert script.main(model_arguments(trained)) == 0
    assert not (folder / ".eval_results" / "sticker-selection.yaml").exists()
    assert "give --dataset" in capsys.readouterr().out


def test_the_snippets_of_the_models_card_run(script, trained, tmp_path):
    script.main(model_arguments(trained))
    card = (trained / "model" / "README.md").read_text()
    first, second, third = python_blocks(card, "org/cks", trained / "model")
    # Readers have the card and no package.
    program = "import sys\nsys.modules['modeling_cks'] = None\n" + first + second
    environment = {
        "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=trained, env=environment,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["1", "2", "3"]
    assert {line.split()[1] for line in lines[:3]} == {"cry.png", "joy.png", "hm.png"}
    assert lines[-1].startswith("tensor([[")


def test_the_fine_tuning_of_the_models_card_runs(script, trained, tmp_path, monkeypatch):
    script.main(model_arguments(trained))
    card = (trained / "model" / "README.md").read_text()
    block = python_blocks(card, "org/cks", trained / "model")[2]
    prepared(tmp_path)
    (tmp_path / "data").rename(tmp_path / "my_data")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["trainer"].state.global_step > 0
    before = names["AutoModel"].from_pretrained(trained / "model").state_dict()
    after = names["AutoModel"].from_pretrained(tmp_path / "my_model").state_dict()
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    assert names["AutoProcessor"].from_pretrained(tmp_path / "my_model")


def test_the_data_tells_its_language_and_must_be_the_models(script, trained, tmp_path):
    folder = trained / "model"
    whole = (folder / "training.json").read_text()
    records = whole_records()
    prepared(tmp_path)
    fingerprint = json.loads((tmp_path / "data" / "statistics.json").read_text())["fingerprint"]

    def unnamed(record):
        record["data"] = {"fingerprint": fingerprint, "language": None}
        return json.dumps(record)

    (folder / "training.json").write_text(unnamed(records["training"]))
    results = [tmp_path / f"results{n}.json" for n in range(3)]
    for path, result in zip(results, records["results"], strict=True):
        path.write_text(unnamed(result))
    arguments = ["model", str(folder), "--results", *map(str, results), "--licence", "mit",
                 "--repo", "org/cks"]  # fmt: skip
    try:
        with pytest.raises(ValueError, match=r"training\.json: names no data\.language"):
            script.main(arguments)
        script.main([*arguments, "--language", "zh"])
        assert ModelCard.load(folder / "README.md").data.language == "zh"
        script.main([*arguments, "--data", str(tmp_path / "data")])
        card = ModelCard.load(folder / "README.md")
        assert card.data.language == "en" and "| samples, train | 4 | 212,248 |" in card.text
    finally:
        (folder / "training.json").write_text(whole)
    with pytest.raises(ValueError, match="is not the data that .*training.json names"):
        script.main(model_arguments(trained, "--data", str(tmp_path / "data")))


def test_bad_input_is_one_line_and_leaves_the_old_card(script, trained, tmp_path):
    script.main(model_arguments(trained))
    readme = trained / "model" / "README.md"
    before = readme.read_bytes()
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for more, says in (
        (["--tables", str(tmp_path / "none.json")], "none.json: the file is missing"),
        (["--benchmark", str(broken)], "broken.json: not valid JSON"),
        (["--dataset", "mod"], "mod: not a name on the Hub; write it as owner/name"),
        (["--dataset", "org/a b"], "org/a b: not a name on the Hub"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            script.main(model_arguments(trained, *more))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="config.json: the file is missing"):
        (tmp_path / "training.json").write_bytes((trained / "model/training.json").read_bytes())
        arguments = model_arguments(trained)
        script.main([arguments[0], str(tmp_path), *arguments[2:]])
    assert readme.read_bytes() == before
    assert not [path for path in readme.parent.iterdir() if path.name.startswith(".README")]


def test_the_picture_is_a_png_on_white(script, tmp_path):
    files = ReleaseFiles()
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    files.images["s000.png"] = buffer.getvalue()
    prepare(files.write(tmp_path / "release"), tmp_path / "data")
    script.main(["dataset", str(tmp_path / "data"), "--repo", "org/mod", "--licence", "other"])
    sheet = Image.open(tmp_path / "data" / "stickers.png")
    assert sheet.format == "PNG" and sheet.getpixel((36, 36)) == (255, 255, 255)
