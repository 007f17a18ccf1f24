# SPDX-License-Identifier: Apache-2.0
"""docs/finetune.ipynb runs from its first cell to its last, in a kernel of its own."""

import re
from pathlib import Path

import nbformat
import pytest
from chat_files import turns, write_csv, write_stickers
from nbclient import NotebookClient
from tiny_model import tiny_cks
from transformers import AutoModel

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def notebook(tmp_path):
    """The notebook as it stands, but for the names in its first cell."""
    notebook = nbformat.read(ROOT / "docs" / "finetune.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for name, value in {
        "MODEL": str(tmp_path / "model"),
        "CHATS": str(tmp_path / "chats.csv"),
        "STICKERS": str(tmp_path / "stickers"),
        "OUTPUT": str(tmp_path / "my_cks"),
    }.items():
        first.source, found = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", first.source)
        assert found == 1, name
    first.source, found = re.subn(r"= 3, 5e-5, 32", "= 12, 1e-2, 24", first.source)
    assert found == 1
    return notebook


def output(notebook, beginning):
    """Return what the cell that begins so showed."""
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith(beginning)]
    return "".join(
        each.get("text") or each["data"]["text/plain"]
        for each in cell.outputs
        if each.output_type in ("stream", "execute_result") and each.get("name") != "stderr"
    )


def test_it_runs_and_saves_a_model_that_chooses(notebook, tmp_path, monkeypatch):
    model, processor = tiny_cks(tmp_path, use_knowledge=False)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    write_csv(tmp_path / "chats.csv", turns())
    write_stickers(tmp_path / "stickers")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    told = output(notebook, "from dataset_mod import Chats")
    assert "emotions: ['furious', 'glad', 'low']" in told
    assert "'R@1': " in output(notebook, "from modeling_cks.cks_ranker")
    assert output(notebook, "from transformers import pipeline").count(".") >= 6  # names, scores
    assert "trainable params" in output(notebook, "from peft")
    saved = AutoModel.from_pretrained(tmp_path / "my_cks")
    assert set(saved.config.label2id) == {"furious", "glad", "low"}
    assert (tmp_path / "my_cks" / "adapter" / "adapter_model.safetensors").is_file()
