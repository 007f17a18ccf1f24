# SPDX-License-Identifier: Apache-2.0
import pytest

# Lets the tests import the modules of the Space.
import space_folder  # noqa: F401
from tiny_model import tiny_cks


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A whole checkpoint, COMET and code included."""
    folder = tmp_path_factory.mktemp("space_model")
    model, processor = tiny_cks(folder, emotions=("joy", "sadness", "anger", "surprise"))
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"
