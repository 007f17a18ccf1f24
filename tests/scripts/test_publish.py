# SPDX-License-Identifier: Apache-2.0
"""publish.py against a Hub on loopback: what it lists, what it refuses, what it writes."""

import json
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub.loopback_hub import TOKEN, LoopbackHub
from huggingface_hub import EvalResult, HfApi, ModelCardData
from tiny_model import tiny_cks

from dataset_mod.prepared import load_prepared, prepare
from dataset_mod.synthetic import write_mini_release

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
TERMS = "--i-know-the-terms"


@pytest.fixture(scope="module")
def publish():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import publish
    finally:
        sys.path.remove(str(SCRIPTS))
    return publish.main


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that this process talks to; set where the library looks it up, at each call."""
    with LoopbackHub() as hub:
        constants = {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def card(value=41.5, **fields):
    result = EvalResult("other", "org/mod", "MOD-mini", metric_type="recall", metric_value=value)
    fields = {"license": "apache-2.0", "model_name": "cks", "eval_results": [result], **fields}
    return f"---\n{ModelCardData(**fields).to_yaml()}\n---\n\n# CKS\n\n| R@1 | 41.5 |\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model's folder and a prepared one, both fit to be published."""
    folder = tmp_path_factory.mktemp("made")
    model, processor = tiny_cks(folder / "parts")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "model" / "README.md").write_text(card())
    write_mini_release(folder / "release", dialogues=(120, 2, 2, 2), size=32)
    prepare(folder / "release", folder / "data")
    readme = folder / "data" / "README.md"
    readme.write_text(readme.read_text().replace("---\n", "---\nlicense: cc0-1.0\n", 1))
    return folder


@pytest.fixture
def model(made, tmp_path):
    return Path(shutil.copytree(made / "model", tmp_path / "model"))


@pytest.fixture
def data(made, tmp_path):
    return Path(shutil.copytree(made / "data", tmp_path / "data"))


@pytest.fixture
def space(tmp_path):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\ntitle: T\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n# T\n"
    )
    (folder / "app.py").write_text("import gradio\n")
    (folder / "requirements.txt").write_text("torch\n")
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def published(repository, revision="main"):
    files = repository.files(revision)
    del files[".gitattributes"]
    return files


def listed(output):
    """Return path -> (what becomes of it, size) of a listing."""
    found = {}
    for line in output.splitlines():
        for state in ("new", "replaced", "unchanged", "removed", "stays", "held back"):
            if line.startswith(f"  {state} "):
                *size, path = line[12:].split(" (")[0].split()
                found[path] = (state, int(size[0].replace(",", "")) if size else None)
    return found


def test_without_yes_all_is_listed_and_nothing_written(publish, hub, model, capsys):
    assert publish([str(model), "org/cks", "--type", "model"]) == 0
    output = capsys.readouterr().out
    sizes = {path: len(content) for path, content in contents(model).items()}
    assert listed(output) == {path: ("new", size) for path, size in sizes.items()}
    assert "nothing was written" in output and "to be made, public" in output
    assert f"{len(sizes)} of {len(sizes)} files to send, {sum(sizes.values()):,} bytes" in output
    assert hub.repositories == {}
    assert {request.split()[0] for request in hub.requests} == {"GET"}


def test_with_yes_the_repository_is_the_folder(publish, hub, model, capsys):
    assert publish([str(model), "org/cks", "--type", "model", "--yes"]) == 0
    repository = hub["org/cks"]
    assert published(repository) == contents(model)
    assert list(repository.messages.values()) == ["initial commit", "Upload model"]
    last = capsys.readouterr().out.splitlines()
    assert repository.branches["main"] in last[-2]
    assert last[-1] == f"{hub.url}/org/cks"


def test_what_changed_is_sent_and_the_rest_told_apart(publish, hub, model, capsys):
    arguments = [str(model), "org/cks", "--type", "model", "--commit-message", "Again"]
    publish([*arguments, "--yes"])
    HfApi().upload_file(path_or_fileobj=b"old", path_in_repo="notes.txt", repo_id="org/cks")
    (model / "README.md").write_text(card(42.5))
    (model / "more.txt").write_text("more")
    capsys.readouterr()
    assert publish(arguments) == 0
    found = {path: state for path, (state, _) in listed(capsys.readouterr().out).items()}
    expected = dict.fromkeys(contents(model), "unchanged")
    expected |= {"README.md": "replaced", "more.txt": "new", "notes.txt": "stays"}
    assert found == expected
    hub.requests.clear()
    assert publish([*arguments, "--yes"]) == 0
    assert not any(request.startswith("PUT") for request in hub.requests)
    assert published(hub["org/cks"]) == contents(model) | {"notes.txt": b"old"}
    assert hub["org/cks"].messages[hub["org/cks"].branches["main"]] == "Again"
    before = hub["org/cks"].branches["main"]
    assert publish([*arguments, "--yes"]) == 0
    assert "holds all of it already" in capsys.readouterr().out
    assert hub["org/cks"].branches["main"] == before


def test_weights_that_would_be_loaded_instead_are_removed(publish, hub, model):
    publish([str(model), "org/cks", "--type", "model", "--yes"])
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"all": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    publish([str(model), "org/cks", "--type", "model", "--yes"])
    assert "model.safetensors" not in hub["org/cks"].files()
    assert hub["org/cks"].files()["model-00001-of-00001.safetensors"] == weights


def test_caches_states_and_secrets_stay_here(publish, hub, model, capsys):
    whole = contents(model)
    held = (
        ".env", "server.pem", ".git/config", "__pycache__/ocr.pyc", "checkpoints/run.json",
        "checkpoint-7/model.safetensors", "optimizer.pt", "training_args.bin", "ocr.json",
        "knowledge/0.npy", "runs/events.txt", "logs/a", "a.log", ".cache/x", "comet/.cache/x",
    )  # fmt: skip
    for name in held:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("x")
    (model / "elsewhere").symlink_to(model.parent, target_is_directory=True)
    assert publish([str(model), "org/cks", "--type", "model", "--yes"]) == 0
    assert published(hub["org/cks"]) == whole
    found = listed(capsys.readouterr().out)
    told = {path for path, (state, _) in found.items() if state == "held back"}
    assert told == {
        ".env", "server.pem", ".git/", "__pycache__/", "checkpoints/", "checkpoint-7/",
        "optimizer.pt", "training_args.bin", "ocr.json", "knowledge/", "runs/", "logs/", "a.log",
        ".cache/", "comet/.cache/", "elsewhere/",
    }  # fmt: skip


@pytest.mark.parametrize("secret", [TOKEN, "-----BEGIN RSA PRIVATE KEY-----"])
def test_a_secret_in_a_file_is_refused_where_it_stands(publish, hub, model, secret):
    (model / "training.json").write_text(f'{{"a": 1,\n "b": "{secret}"}}')
    with pytest.raises(ValueError, match=r"training\.json:2: holds") as refused:
        publish([str(model), "org/cks", "--type", "model", "--yes"])
    assert secret not in str(refused.value)
    assert hub.requests == []


def rewrite(path, change):
    path.write_text(change(path.read_text()))


def edit(path, **fields):
    rewrite(path, lambda text: json.dumps(json.loads(text) | fields))


MODEL_FAULTS = {
    "has no README.md": lambda m: (m / "README.md").unlink(),
    "names no `license`": lambda m: (m / "README.md").write_text(card(license=None)),
    "does not begin with a block of YAML": lambda m: (m / "README.md").write_text("# CKS\n"),
    "tells no result": lambda m: (m / "README.md").write_text("---\nlicense: mit\n---\n# CKS\n"),
    "recall of its `model-index` is nan": lambda m: (m / "README.md").write_text(
        card(float("nan"))
    ),
    "its YAML cannot be read": lambda m: (m / "README.md").write_text(card(None)),
    "README.md:18: 'None' stands": lambda m: rewrite(
        m / "README.md", lambda text: text.replace("| 41.5 |", "| None |")
    ),
    "README.md:18: '{{' stands": lambda m: rewrite(
        m / "README.md", lambda text: text.replace("| 41.5 |", "| {{ value }} |")
    ),
    "README.md:18: 'TODO' stands": lambda m: rewrite(
        m / "README.md", lambda text: text.replace("| 41.5 |", "| TODO |")
    ),
    "has no config.json": lambda m: (m / "config.json").unlink(),
    "config.json: not valid JSON": lambda m: (m / "config.json").write_text("{"),
    "names no AutoModel": lambda m: edit(m / "config.json", auto_map={}),
    "names no pipeline": lambda m: edit(m / "config.json", custom_pipelines={}),
    "has no modeling_cks.py, the code of AutoModel": lambda m: (m / "modeling_cks.py").unlink(),
    "has no class CKSModel": lambda m: (m / "modeling_cks.py").write_text("import torch\n"),
    "has no losses.py, which modeling_cks.py needs": lambda m: (m / "losses.py").unlink(),
    "has no model.safetensors": lambda m: (m / "model.safetensors").unlink(),
    "model.safetensors: is damaged or cut off": lambda m: (m / "model.safetensors").write_bytes(
        (m / "model.safetensors").read_bytes()[:-1]
    ),
    "has no processor_config.json": lambda m: (m / "processor_config.json").unlink(),
    "has no tokenizer.json": lambda m: (m / "tokenizer.json").unlink(),
    "has no bert_tokenizer/tokenizer.json": lambda m: (
        m / "bert_tokenizer" / "tokenizer.json"
    ).unlink(),
    "has no comet/config.json": lambda m: shutil.rmtree(m / "comet"),
    "has no comet/model.safetensors": lambda m: (m / "comet" / "model.safetensors").unlink(),
    "`comet` is a path of this machine": lambda m: edit(
        m / "processor_config.json", comet="/mnt/comet"
    ),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_an_incomplete_model_is_refused_before_the_hub_is_asked(publish, hub, model, fault):
    MODEL_FAULTS[fault](model)
    with pytest.raises(ValueError) as refused:
        publish([str(model), "org/cks", "--type", "model", "--yes"])
    assert fault in str(refused.value)
    assert hub.requests == []


def test_all_that_is_missing_is_told_at_once(publish, hub, model):
    (model / "README.md").unlink()
    (model / "losses.py").unlink()
    with pytest.raises(ValueError, match=r"README\.md.*losses\.py"):
        publish([str(model), "org/cks", "--type", "model"])


def test_what_prose_and_code_may_say_is_no_gap(publish, hub, model):
    more = "\nNone of them is kept; bananas.\n\n```python\nvalue = None  # {{ TODO }}\n```\n"
    rewrite(model / "README.md", lambda text: text + more)
    assert publish([str(model), "org/cks", "--type", "model"]) == 0


DATA_FAULTS = {
    "has no README.md": lambda d: (d / "README.md").unlink(),
    "names no `license`": lambda d: rewrite(
        d / "README.md", lambda text: text.replace("license: cc0-1.0\n", "")
    ),
    "no statistics.json": lambda d: (d / "statistics.json").unlink(),
    "missing or damaged": lambda d: (d / "data/en/train-00000-of-00001.parquet").unlink(),
    "do not name 'stickers'": lambda d: rewrite(
        d / "README.md", lambda text: text.replace("config_name: stickers", "config_name: other")
    ),
    "which README.md names for 'en'": lambda d: rewrite(
        d / "README.md", lambda text: text.replace("data/en/train-*", "data/en/training-*")
    ),
    "is none of the tables that statistics.json lists": lambda d: shutil.copy(
        d / "data/en/train-00000-of-00001.parquet", d / "data/en/train-extra.parquet"
    ),
    "rows in train of 'en', where there are": lambda d: rewrite(
        d / "README.md", lambda text: text.replace("num_examples: ", "num_examples: 1", 1)
    ),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_incomplete_data_is_refused_before_the_hub_is_asked(publish, hub, data, fault):
    DATA_FAULTS[fault](data)
    with pytest.raises(ValueError) as refused:
        publish([str(data), "org/mod", "--type", "dataset", "--yes"])
    assert fault in str(refused.value)
    assert hub.requests == []


def test_data_of_a_release_needs_its_terms_accepted(publish, hub, data, capsys):
    edit(data / "statistics.json", generator=None)
    arguments = [str(data), "org/mod", "--type", "dataset", "--yes"]
    with pytest.raises(ValueError, match=f"MOD is for research only.*{TERMS}"):
        publish(arguments)
    assert hub.requests == []
    assert publish([*arguments, TERMS]) == 0
    assert published(hub["datasets/org/mod"]) == contents(data)
    assert "licence: cc0-1.0" in capsys.readouterr().out


def test_data_prepared_before_its_origin_was_kept_counts_as_a_release(publish, hub, data):
    statistics = json.loads((data / "statistics.json").read_text())
    assert statistics.pop("generator") == "MOD-mini"
    (data / "statistics.json").write_text(json.dumps(statistics))
    with pytest.raises(ValueError, match=TERMS):
        publish([str(data), "org/mod", "--type", "dataset"])


def test_large_tables_go_up_in_shards_that_read_as_before(publish, hub, data, tmp_path, capsys):
    before = contents(data)
    name = "data/en/train-00000-of-00001.parquet"
    limit = len(before[name]) // 3 // 1000 * 1000
    size = f"{limit // 1000}KB"
    arguments = [str(data), "org/mod", "--type", "dataset", "--shard-size", size]
    assert publish([*arguments, "--yes"]) == 0
    files = published(hub["datasets/org/mod"])
    shards = sorted(path for path in files if fnmatch(path, "data/en/train-*.parquet"))
    assert len(shards) > 3 and name not in files
    assert shards[0].endswith(f"-00000-of-{len(shards):05d}.parquet")
    assert max(len(files[path]) for path in shards) <= limit
    parts = [pq.read_table(pa.BufferReader(files[path])) for path in shards]
    whole = pq.read_table(data / name)
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()
    assert parts[0].schema.equals(whole.schema, check_metadata=True)
    assert contents(data) == before
    # What somebody downloads is a prepared folder as good as this one.
    for path, content in files.items():
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(content)
    assert load_prepared(tmp_path / "copy").splits["train"].to_list() == (
        load_prepared(data).splits["train"].to_list()
    )
    capsys.readouterr()
    assert publish(arguments) == 0
    assert {state for state, _ in listed(capsys.readouterr().out).values()} == {"unchanged"}
    # Whole again: left there, the shards would be read beside it.
    assert publish([*arguments[:4], "--yes"]) == 0
    assert published(hub["datasets/org/mod"]) == before


def test_a_space_goes_up_with_its_sdk(publish, hub, space):
    assert publish([str(space), "org/demo", "--type", "space", "--yes"]) == 0
    assert published(hub["spaces/org/demo"]) == contents(space)
    assert hub["spaces/org/demo"].sdk == "gradio"


SPACE_FAULTS = {
    "has no README.md": lambda s: (s / "README.md").unlink(),
    "has no requirements.txt": lambda s: (s / "requirements.txt").unlink(),
    "has no app.py, its `app_file`": lambda s: (s / "app.py").unlink(),
    "app.py:1:": lambda s: (s / "app.py").write_text("import import\n"),
    "its `sdk` is 'tk'": lambda s: rewrite(
        s / "README.md", lambda text: text.replace("sdk: gradio", "sdk: tk")
    ),
    "names no `sdk_version`": lambda s: rewrite(
        s / "README.md", lambda text: text.replace("sdk_version: 6.31.0\n", "")
    ),
    "names no `app_file`": lambda s: rewrite(
        s / "README.md", lambda text: text.replace("app_file: app.py\n", "")
    ),
}


@pytest.mark.parametrize("fault", SPACE_FAULTS)
def test_an_incomplete_space_is_refused_before_the_hub_is_asked(publish, hub, space, fault):
    SPACE_FAULTS[fault](space)
    with pytest.raises(ValueError) as refused:
        publish([str(space), "org/demo", "--type", "space", "--yes"])
    assert fault in str(refused.value)
    assert hub.requests == []


def test_the_space_of_this_repository_can_be_published(publish, hub):
    assert publish([str(ROOT / "hub_cards" / "space"), "org/demo", "--type", "space"]) == 0


def test_a_failed_upload_leaves_the_repository_as_it_was(publish, hub, model):
    arguments = [str(model), "org/cks", "--type", "model", "--yes"]
    hub.fail = lambda request: 400 if "/commit/" in request else 0
    with pytest.raises(OSError, match="not published, the repository is new and empty"):
        publish(arguments)
    assert published(hub["org/cks"]) == {}
    with pytest.raises(OSError, match="not published, the repository is as it was"):
        publish(arguments)
    hub.fail = lambda request: 0
    hub.requests.clear()
    assert publish(arguments) == 0
    assert published(hub["org/cks"]) == contents(model)
    assert not any(request.startswith("PUT") for request in hub.requests)


def test_a_repository_that_changed_meanwhile_is_not_written_over(publish, hub, model):
    arguments = [str(model), "org/cks", "--type", "model", "--yes"]
    publish(arguments)
    (model / "README.md").write_text(card(1.5))

    def intrude(request):
        if "/preupload/" in request and len(hub["org/cks"].commits) == 2:
            hub["org/cks"].commit("main", {}, "by another")
        return 0

    hub.fail = intrude
    with pytest.raises(OSError, match="A commit has happened since"):
        publish(arguments)
    assert hub["org/cks"].files() == {}


def test_a_branch_is_made_and_main_left_alone(publish, hub, model, capsys):
    arguments = [str(model), "org/cks", "--type", "model", "--yes"]
    publish(arguments)
    first = contents(model)
    (model / "README.md").write_text(card(1.5))
    assert publish([*arguments, "--revision", "next"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/org/cks/tree/next"
    assert published(hub["org/cks"], "next") == contents(model)
    assert published(hub["org/cks"]) == first


def test_private_is_made_so_and_public_is_not_taken_for_it(publish, hub, model):
    arguments = [str(model), "org/cks", "--type", "model", "--private"]
    assert publish([*arguments, "--yes"]) == 0
    assert hub["org/cks"].private
    hub["org/cks"].private = False
    with pytest.raises(ValueError, match="org/cks is public"):
        publish([*arguments, "--yes"])


def test_nothing_is_written_by_nobody(publish, hub, model, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(model / "no_token_here"))
    with pytest.raises(ValueError, match="log in with `hf auth login`, or set HF_TOKEN"):
        publish([str(model), "org/cks", "--type", "model", "--yes"])
    assert hub.repositories == {}


def test_a_hub_that_does_not_answer_is_one_line(publish, hub, model):
    hub.close()
    with pytest.raises(OSError, match="org/cks: the Hub cannot be asked"):
        publish([str(model), "org/cks", "--type", "model"])


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "publish.py"), "nowhere", "org/cks", "--type", "model"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "publish.py: nowhere: no such folder\n")
