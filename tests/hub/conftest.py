# SPDX-License-Identifier: Apache-2.0
"""A Hub, and four processes that meet over it: one publishes, others read what it published.

Each process imports torch and transformers anew, which is what takes the time; so each does all
that it can, once a session, and the tests look at what it found.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from loopback_hub import LoopbackHub
from PIL import Image

from dataset_mod.prepared import prepare
from dataset_mod.synthetic import write_mini_release

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DIALOGUE = ["i am so happy today !", "what a surprise , thank you", "oh no , that is sad"]


def run(program, *arguments, isolated, folder, **environment):
    """Run a program of this folder; return what its last line says."""
    command = [sys.executable, *(["-I"] if isolated else []), str(HERE / program)]
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    (folder / "elsewhere").mkdir(exist_ok=True)
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=folder / "elsewhere", env={**kept, **environment},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def read(folder, name, *, models, data=None, save=None, package=False, **environment):
    """Load in a process of its own; see reader.py."""
    job = folder / f"{name}.json"
    job.write_text(
        json.dumps(
            {
                "folder": str(folder), "package": str(ROOT) if package else None,
                "models": models, "data": data or {}, "save": save or {},
            }
        )
    )  # fmt: skip
    return run("reader.py", job, isolated=True, folder=folder, **environment)


@pytest.fixture(scope="session")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Everything that a publisher has before it publishes."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "stickers").mkdir()
    draw = np.random.default_rng(0)
    for number in range(4):
        pixels = draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "stickers" / f"{number}.png")
    (folder / "dialogue.json").write_text(json.dumps(DIALOGUE))
    result = EvalResult("other", "org/mod", "MOD-mini", metric_type="recall_at_1", metric_value=9.1)
    data = ModelCardData(
        license="apache-2.0", library_name="transformers", model_name="cks", eval_results=[result]
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n# CKS, tiny\n").save(folder / "card.md")
    write_mini_release(folder / "release", dialogues=(4, 2, 2, 2), size=32)
    prepare(folder / "release", folder / "data")
    card = folder / "data" / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: cc0-1.0\n", 1))
    return folder


@pytest.fixture(scope="session")
def published(hub, folder):
    """What a process that has the package published, and its own scores."""
    modules = ":".join(str(ROOT / place) for place in ("", "tests", "scripts"))
    environment = hub.environment(folder / "publisher_home")
    return run(
        "publisher.py", folder, isolated=False, folder=folder, PYTHONPATH=modules, **environment
    )


@pytest.fixture(scope="session")
def stranger(hub, folder, published):
    """What a process without the package finds, whose cache was empty."""
    first = published["first"]["sha"]
    return read(
        folder,
        "stranger",
        models={
            "first": ["org/cks", {"revision": first}],
            "tag": ["org/cks", {"revision": "v1"}],
            "second": ["org/cks", {}],
            "pushed": ["org/pushed", {"revision": "branch"}],
            "saved": ["org/saved", {}],
            "training": ["org/trained", {"revision": published["training"]["sha"]}],
            "trained": ["org/trained", {}],
            "by package": [str(folder / "by_package"), {}],
        },
        data={
            "en": ["org/mod", "en", {}],
            "stickers": ["org/mod", "stickers", {}],
            "en stream": ["org/mod", "en", {"streaming": True}],
            "stickers stream": ["org/mod", "stickers", {"streaming": True}],
            "pushed en": ["org/pushed_mod", None, {}],
            "pushed stickers": ["org/pushed_mod", "stickers", {}],
        },
        save={"second": str(folder / "by_stranger")},
        **hub.environment(folder / "stranger_home"),
    )


@pytest.fixture(scope="session")
def user(hub, folder, published, stranger):
    """What a process with the package finds, in the Hub and in what the stranger saved."""
    return read(
        folder,
        "user",
        package=True,
        models={
            "first": ["org/cks", {"revision": published["first"]["sha"]}],
            "second": ["org/cks", {}],
            "by stranger": [str(folder / "by_stranger"), {}],
        },
        **hub.environment(folder / "user_home"),
    )


@pytest.fixture(scope="session")
def offline(hub, folder, published, stranger, user):
    """What a process without the package finds in the stranger's cache when the Hub is gone."""
    hub.close()
    environment = hub.environment(folder / "stranger_home") | {"HF_HUB_OFFLINE": "1"}
    return read(
        folder,
        "offline",
        models={
            "first": ["org/cks", {"revision": published["first"]["sha"]}],
            "second": ["org/cks", {}],
        },
        data={"en": ["org/mod", "en", {}]},
        **environment,
    )
