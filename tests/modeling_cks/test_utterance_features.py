# SPDX-License-Identifier: Apache-2.0
import torch
from tiny_model import tiny_cks

from modeling_cks.utterance_features import UtteranceFeatures


def test_each_utterance_is_encoded_once_and_as_the_model_does(tmp_path, monkeypatch):
    model, processor = tiny_cks(tmp_path)
    model.train()
    dialogues = [
        [{"speaker": 0, "text": "so happy today"}, {"speaker": 1, "text": "what a surprise"}],
        [{"speaker": 1, "text": "what a surprise"}, {"speaker": 1, "text": "oh no"}],
    ]
    seen = []
    encode = model.encode_utterances
    monkeypatch.setattr(
        model,
        "encode_utterances",
        lambda ids, mask: seen.append((len(ids), model.text_encoder.training)) or encode(ids, mask),
    )
    features = UtteranceFeatures(model, processor)
    known = processor.encode_dialogues(dialogues, features=features)
    again = processor.encode_dialogues(dialogues[::-1], features=features)
    # Three distinct ones, without dropout, and the encoder's mode is given back.
    assert seen == [(3, False)] and model.text_encoder.training
    assert torch.equal(again["utterance_embeds"][0], known["utterance_embeds"][1])
    assert "utterance_input_ids" not in known
    model.eval()
    tokens = processor.encode_dialogues(dialogues)
    wanted = encode(tokens["utterance_input_ids"], tokens["utterance_attention_mask"])
    torch.testing.assert_close(known["utterance_embeds"], wanted.detach(), atol=1e-5, rtol=1e-4)


def test_only_the_last_used_are_kept_and_nothing_changes(tmp_path, monkeypatch):
    model, processor = tiny_cks(tmp_path)
    said = [(0, text) for text in ("so happy", "oh no", "thank you", "sad", "angry")]
    all_kept = UtteranceFeatures(model, processor, remembered=None)
    few = UtteranceFeatures(model, processor, remembered=2)
    torch.testing.assert_close(few(said), all_kept(said), atol=1e-6, rtol=0)
    assert (len(all_kept._known), list(few._known)) == (5, said[3:])
    few(said[3:4])
    few(said[:1])
    assert list(few._known) == [said[3], said[0]]
    torch.testing.assert_close(few(said), all_kept(said), atol=1e-5, rtol=0)
