# SPDX-License-Identifier: Apache-2.0
"""What all baselines share: tokens kept, padding, saving, and refusals by name."""

import json

import numpy as np
import pytest
import torch
from small_world import stickers
from tiny_model import TEXTS
from transformers import BertConfig, CLIPImageProcessor

from modeling_cks.backbones import train_tokenizer
from modeling_cks.baselines import BASELINES, baseline_class, load_baseline
from modeling_cks.baselines.base import Baseline, add_speakers, dialogue_tokens, pad
from modeling_cks.evaluation import RankerOutput


class Favourite(Baseline):
    """Likes each sticker as much as one learnt number says."""

    kind, title = "favourite", "Favourite"

    def __init__(self, configs, tokenizer, image_processor, emotions, settings):
        super().__init__(configs, tokenizer, image_processor, emotions, settings)
        self.liking = torch.nn.Parameter(torch.arange(6.0))
        self.forgotten = 0

    def collate(self, rows):
        return {"positive": torch.tensor([self.inventory.place(r["sticker_id"]) for r in rows])}

    def forward(self, positive):
        return {"loss": -self.liking.log_softmax(0)[positive].mean()}

    def score(self, rows):
        assert not self.training and not torch.is_grad_enabled()
        places = [[self.inventory.place(c) for c in row["candidates"]] for row in rows]
        return RankerOutput([self.liking[place].numpy() for place in places])

    def forget_stickers(self):
        self.forgotten = getattr(self, "forgotten", 0) + 1


@pytest.fixture
def favourite():
    tokenizer = train_tokenizer(TEXTS, 120)
    add_speakers(tokenizer)
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return Favourite(
        {"text": BertConfig(hidden_size=8)}, tokenizer, image_processor, ["joy"], {"ocr": "none"}
    )


ROWS = [{"candidates": ["003", "001", "005"]}]
DIALOGUE = [
    {"speaker": 0, "text": "i am so happy"},
    {"speaker": 1, "text": "oh no"},
    {"speaker": 0, "text": "what a surprise"},
]


def test_the_newest_tokens_are_kept(favourite):
    tokenizer = favourite.tokenizer
    spoken = "[speaker1] i am so happy [speaker2] oh no [speaker1] what a surprise"
    whole = tokenizer(spoken, add_special_tokens=False)["input_ids"]
    assert len(whole) > 6
    for limit in (1, 4, 6, len(whole), len(whole) + 5):
        assert dialogue_tokens(tokenizer, DIALOGUE, limit) == whole[-limit:]
    assert dialogue_tokens(tokenizer, DIALOGUE, 0) == []
    # Speakers are one token each, and not the pieces of their names.
    assert whole[0] == tokenizer.convert_tokens_to_ids("[speaker1]") != tokenizer.unk_token_id


def test_new_speakers_start_as_the_mean_of_the_known_words():
    from transformers import PreTrainedTokenizerFast

    trained = train_tokenizer(TEXTS, 120)
    plain = json.loads(trained.backend_tokenizer.to_str())
    tags = ("[speaker1]", "[speaker2]")
    plain["added_tokens"] = [t for t in plain["added_tokens"] if t["content"] not in tags]
    for tag in tags:
        plain["model"]["vocab"].pop(tag, None)
    ordered = sorted(plain["model"]["vocab"], key=plain["model"]["vocab"].get)
    plain["model"]["vocab"] = {word: place for place, word in enumerate(ordered)}
    for token in plain["added_tokens"]:
        token["id"] = plain["model"]["vocab"][token["content"]]
    plain["post_processor"] = None
    from tokenizers import Tokenizer

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(plain)))
    known = len(tokenizer)
    embeddings = torch.nn.Embedding(known + 2, 4)
    mean = embeddings.weight[:known].mean(0).detach().clone()
    assert add_speakers(tokenizer, embeddings) == known + 2
    torch.testing.assert_close(embeddings.weight[known:].detach(), mean.expand(2, -1))
    before = embeddings.weight.detach().clone()
    assert add_speakers(tokenizer, embeddings) == known + 2
    assert torch.equal(embeddings.weight, before)


def test_padding_is_masked():
    ids, mask = pad([[5, 6, 7], [8]], 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_ranking_leaves_the_mode_as_it_was(favourite):
    favourite.use_stickers(stickers())
    favourite.train()
    assert favourite.rank(ROWS).scores[0].tolist() == [3.0, 1.0, 5.0]
    assert favourite.training
    forgotten = favourite.forgotten
    favourite.eval()
    favourite.rank(ROWS)
    assert not favourite.training and favourite.forgotten == forgotten


def test_training_forgets_what_it_is_about_to_change(favourite):
    forgotten = favourite.forgotten
    favourite.train()
    assert favourite.forgotten == forgotten + 1


def test_without_stickers_it_says_what_to_call(favourite):
    with pytest.raises(ValueError, match="use_stickers"):
        favourite.rank(ROWS)


def test_saved_and_loaded_it_scores_the_same(favourite, tmp_path):
    with torch.no_grad():
        favourite.liking.copy_(torch.randn(6))
    favourite.save_pretrained(tmp_path / "saved")
    loaded = Favourite.from_pretrained(tmp_path / "saved")
    assert loaded.emotions == ["joy"] and loaded.settings == {"ocr": "none"}
    assert loaded.configs["text"].hidden_size == 8
    assert loaded.image_processor.crop_size["height"] == 32
    for each in (favourite, loaded):
        each.use_stickers(stickers())
    np.testing.assert_array_equal(favourite.rank(ROWS).scores[0], loaded.rank(ROWS).scores[0])
    assert dialogue_tokens(loaded.tokenizer, DIALOGUE, 9) == dialogue_tokens(
        favourite.tokenizer, DIALOGUE, 9
    )


def test_a_folder_that_is_no_such_baseline_is_refused_by_name(favourite, tmp_path):
    with pytest.raises(ValueError, match=r"baseline\.json: no such file"):
        load_baseline(tmp_path)
    favourite.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no baseline 'favourite', only clip, "):
        load_baseline(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be loaded"):
        Favourite.from_pretrained(tmp_path)
    record = json.loads((tmp_path / "baseline.json").read_text())
    (tmp_path / "baseline.json").write_text(json.dumps({**record, "kind": "clip"}))
    with pytest.raises(ValueError, match="holds a clip, not a favourite"):
        Favourite.from_pretrained(tmp_path)
    (tmp_path / "baseline.json").write_text("{}")
    with pytest.raises(ValueError, match="not a baseline's record"):
        load_baseline(tmp_path)


@pytest.mark.parametrize("kind", BASELINES)
def test_each_kind_is_named_as_its_class_says(kind):
    found = baseline_class(kind)
    assert found.kind == kind and found.title
