# SPDX-License-Identifier: Apache-2.0
"""Published data is read without the package, whole or as a stream, as it was prepared."""

import pytest

from dataset_mod import load_prepared
from dataset_mod.schema import sample_features, sticker_features


@pytest.fixture(scope="module")
def prepared(folder, published, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield load_prepared(folder / "data")


@pytest.mark.parametrize("way", ["en", "en stream", "pushed en"])
def test_dialogues_are_read_as_they_were_prepared(prepared, stranger, way):
    found = stranger[way]
    assert {split: table["rows"] for split, table in found.items()} == {
        split: table.num_rows for split, table in prepared.splits.items()
    }
    for split, table in prepared.splits.items():
        assert found[split]["emotion"] == prepared.emotions
        assert found[split]["features"] == str(sample_features(prepared.emotions))
        assert found[split]["first"] == table[0]


@pytest.mark.parametrize("way", ["stickers", "stickers stream", "pushed stickers"])
def test_stickers_are_read_as_images(prepared, stranger, way):
    (split,) = stranger[way]
    found, expected = stranger[way][split], prepared.stickers[0]
    image = expected.pop("image")
    pixel = list(image.getpixel((3, 3)))
    assert (split, found["rows"]) == ("train", prepared.stickers.num_rows)
    assert found["features"] == str(sticker_features(prepared.emotions))
    assert found["first"].pop("image") == [image.mode, list(image.size), pixel]
    assert found["first"] == expected


def test_without_the_hub_the_cache_is_enough(stranger, offline):
    assert offline["en"] == stranger["en"]
