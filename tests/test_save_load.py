# SPDX-License-Identifier: Apache-2.0
"""Save, load in a fresh process with and without the package, save again: the same throughout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_cks

ROOT = Path(__file__).resolve().parent.parent
DIALOGUE = ["i am so happy today !", "what a surprise , thank you", "oh no , that is sad"]

# Runs where nothing but the folder is known; prints what the first process must find again.
PROGRAM = """
import json, sys
folder, again, trusted, here = sys.argv[1:]
options = {"trust_remote_code": True} if trusted == "yes" else {}
if here:
    sys.path.insert(0, here)
    import modeling_cks
else:
    sys.modules["modeling_cks"] = None  # as if not installed: to import it is an error
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
config = AutoConfig.from_pretrained(folder, **options)
model = AutoModel.from_pretrained(folder, **options)
processor = AutoProcessor.from_pretrained(folder, **options)
dialogue = json.load(open(folder + "/../dialogue.json"))
images = [Image.open(folder + f"/../stickers/{n}.png") for n in range(4)]
captions = ["happy", "", "oh no", "thank you"]
with torch.no_grad():
    scores = model(**processor(dialogue, images, captions)).scores[0].tolist()
select = pipeline("sticker-selection", model=folder, **options)
answer = select(dialogue, stickers=folder + "/../stickers", top_k=2,
                captions={f"{n}.png": text for n, text in enumerate(captions)})
model.save_pretrained(again)
processor.save_pretrained(again)
print(json.dumps({
    "scores": scores, "answer": answer, "training": model.training,
    "kinds": [type(each).__module__ for each in (config, model, processor, select)],
    "emotions": list(config.id2label.values()),
}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model, processor = tiny_cks(folder)
    (folder / "stickers").mkdir()
    draw = np.random.default_rng(0)
    for number in range(4):
        pixels = draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "stickers" / f"{number}.png")
    (folder / "dialogue.json").write_text(json.dumps(DIALOGUE))
    images = [folder / "stickers" / f"{number}.png" for number in range(4)]
    with torch.no_grad():
        inputs = processor(DIALOGUE, images, ["happy", "", "oh no", "thank you"])
        scores = model(**inputs).scores[0].tolist()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    # What it was built from may go: the folder stands alone.
    shutil.rmtree(folder / "comet")
    return folder, scores


def run(folder, again, *, trusted, package):
    environment = {
        "PATH": os.environ["PATH"],
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    (folder / "empty").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(folder / "model"), str(again),
         "yes" if trusted else "no", str(ROOT) if package else ""],
        cwd=folder / "empty", env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("package", [False, True], ids=["by trusted code", "by the package"])
def test_circle_in_a_fresh_process(saved, package, tmp_path):
    folder, scores = saved
    found = run(folder, tmp_path / "again", trusted=not package, package=package)
    assert found["scores"] == pytest.approx(scores, abs=1e-6)
    assert not found["training"]
    assert found["emotions"] == ["joy", "sadness", "anger", "surprise"]
    start = "modeling_cks." if package else "transformers_modules."
    assert all(kind.startswith(start) for kind in found["kinds"]), found["kinds"]
    best = int(np.argmax(scores))
    assert found["answer"]["stickers"][0]["name"] == f"{best}.png"
    assert found["answer"]["stickers"][0]["score"] == pytest.approx(max(scores), abs=1e-5)
    first, second = files(folder / "model"), files(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_saved_folder_holds_code_and_comet_and_no_path(saved):
    folder, _ = saved
    held = files(folder / "model")
    code = {name for name in held if name.endswith(".py")}
    assert code == {
        "configuration_cks.py", "utterance_extractor.py", "visual_extractor.py",
        "multimodal_encoder.py", "losses.py", "modeling_cks.py", "knowledge.py", "ocr.py",
        "sticker_image.py", "sticker_pack.py", "conversation.py", "utterance_features.py",
        "cpu_inference.py", "ranking.py", "processing_cks.py", "pipeline_cks.py",
    }  # fmt: skip
    for name in code:
        assert held[name] == (ROOT / "modeling_cks" / name).read_bytes()
    assert "comet/model.safetensors" in held
    for name, content in held.items():
        assert str(folder).encode() not in content, name
    processor = json.loads(held["processor_config.json"])
    assert processor["ocr"] == "none" and processor["max_utterances"] == 8
    assert processor["knowledge_size"] == 32


def test_pipeline_saves_a_whole_folder(saved, tmp_path):
    from transformers import pipeline

    import modeling_cks  # noqa: F401 (registers)

    folder, _ = saved
    select = pipeline("sticker-selection", model=str(folder / "model"))
    select.save_pretrained(tmp_path / "again")
    first, second = files(folder / "model"), files(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
