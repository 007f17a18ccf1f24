# SPDX-License-Identifier: Apache-2.0
"""The ranking metric, published as a Space and loaded by its name."""

import json
import os
import subprocess
import sys
from pathlib import Path

from loopback_hub import LoopbackHub

FOLDER = Path(__file__).resolve().parents[2] / "hub_cards" / "sticker_ranking"
PROGRAM = """
import json, sys
import evaluate
from huggingface_hub import create_repo, upload_folder

create_repo("org/sticker_ranking", repo_type="space", space_sdk="gradio")
upload_folder(folder_path=sys.argv[1], repo_id="org/sticker_ranking", repo_type="space")
for package in ("modeling_cks", "dataset_mod", "hub_cards"):
    sys.modules[package] = None  # as if not installed: to import it is an error
metric = evaluate.load("org/sticker_ranking")
figures = metric.compute(predictions=[[0.9, 0.1], [0.2, 0.2, 0.7]], references=[0, 1])
print(json.dumps({"figures": figures, "module": type(metric).__module__}))
"""


def test_a_metric_is_loaded_by_its_name_from_a_space(tmp_path):
    with LoopbackHub() as hub:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
            # Otherwise each load is counted at an address outside.
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            **hub.environment(tmp_path / "home"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM, str(FOLDER)], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        published = hub["spaces/org/sticker_ranking"].files()
        asked = f"GET /spaces/org/sticker_ranking/resolve/main/{FOLDER.name}.py"
        assert asked in hub.requests and hub.unknown == []
    assert {"README.md", "app.py", "requirements.txt"} <= published.keys()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["figures"]["R@1"] == 50.0 and found["figures"]["MRR"] == 100 * (1 + 1 / 3) / 2
    assert found["module"].startswith("evaluate_modules.metrics.org--sticker_ranking.")
