# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest
from tiny_model import tiny_cks

SPACE = Path(__file__).resolve().parents[3] / "hub_cards" / "space"
# The Space's modules know each other by their bare names, as where it runs.
sys.path.insert(0, str(SPACE))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A whole checkpoint, COMET and code included."""
    folder = tmp_path_factory.mktemp("space_model")
    model, processor = tiny_cks(folder, emotions=("joy", "sadness", "anger", "surprise"))
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"
