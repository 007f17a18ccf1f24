# SPDX-License-Identifier: Apache-2.0
"""FROMAGe against OPT and CLIP themselves; and what may be wrong with its published file."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from small_world import rows, stickers
from tiny_baselines import checkpoints, samples, tiny_baseline
from tiny_model import TEXTS
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoTokenizer,
    CLIPVisionModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from dataset_mod.prepared import prepare
from dataset_mod.synthetic import write_mini_release
from modeling_cks.baselines import baseline_class, load_baseline

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
IMAGE_TOKENS, SHARED, SEEN = 3, 12, 32


def save_opt(folder, hidden_size=32, width=32):
    """Write a tiny OPT with its byte-level tokenizer, as on the Hub: with its head of words."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        TEXTS, vocab_size=320, special_tokens=["<s>", "<pad>", "</s>", "<unk>"]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer) + 7, hidden_size=hidden_size, num_hidden_layers=2,
            num_attention_heads=2, ffn_dim=64, max_position_embeddings=90, init_std=0.2,
            word_embed_proj_dim=width, bos_token_id=2, eos_token_id=2,
        )
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def published_state(width=32, prefix="model.", row=True):
    """Make what the published file holds: maps, temperature and the embedding of [RET]."""
    draw = torch.Generator().manual_seed(3)
    shapes = {
        "logit_scale": (),
        "text_hidden_fcs.0.0.weight": (SHARED, width),
        "text_hidden_fcs.0.0.bias": (SHARED,),
        "visual_embeddings.weight": (IMAGE_TOKENS * width, SEEN),
        "visual_embeddings.bias": (IMAGE_TOKENS * width,),
        "visual_fc.weight": (SHARED, SEEN),
        "visual_fc.bias": (SHARED,),
    }
    state = {
        prefix + name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()
    }
    ret = 0.3 * torch.randn(width, generator=draw)
    return {**state, "ret_input_embeddings.weight": ret[None] if row else ret}


def save_maps(folder, state, **arguments):
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": state}, folder / "pretrained_ckpt.pth.tar")
    known = {
        "opt_version": "facebook/opt-6.7b",
        "visual_encoder": "openai/clip-vit-large-patch14",
        "n_visual_tokens": IMAGE_TOKENS,
        "shared_emb_dim": SHARED,
        "text_emb_layers": [-1],
        "retrieval_token_idx": 50266,
    }
    (folder / "model_args.json").write_text(json.dumps(known | arguments))
    return str(folder)


@pytest.fixture
def opt(tmp_path):
    return save_opt(tmp_path / "opt")


def build(tmp_path, opt, maps, **settings):
    baseline = baseline_class("fromage").build(
        emotions=["joy"],
        text=opt,
        vision=checkpoints(tmp_path)[1],
        checkpoint=maps,
        **{"max_dialogue_tokens": 80, **settings},
    )
    baseline.use_stickers(stickers())
    return baseline


def wanted_scores(row, opt, clip, state, baseline, keep=1000):
    """Rank a row's candidates by OPT and CLIP themselves, one token after the other."""
    maps = {name.removeprefix("module.").removeprefix("model."): t for name, t in state.items()}
    tokenizer = AutoTokenizer.from_pretrained(opt)
    lm = OPTForCausalLM.from_pretrained(opt).eval()
    words = lm.get_input_embeddings().weight

    def seen(sticker):
        pixels = baseline.inventory.pixel_values([baseline.inventory.place(sticker)])
        return clip(pixel_values=pixels).pooler_output[0]

    def linear(name, feature):
        return maps[f"{name}.weight"] @ feature + maps[f"{name}.bias"]

    tokens, text = [], ""
    for turn in row["utterances"]:
        text += (" " if text or tokens else "") + "AB"[turn["speaker"]] + ": " + turn["text"]
        if turn["sticker_id"] is not None:
            tokens += list(words[tokenizer(text, add_special_tokens=False)["input_ids"]])
            tokens += list(
                linear("visual_embeddings", seen(turn["sticker_id"])).view(IMAGE_TOKENS, -1)
            )
            text = ""
    tokens += list(words[tokenizer(text, add_special_tokens=False)["input_ids"]])
    ret = maps["ret_input_embeddings.weight"].view(-1)
    embeds = torch.stack([words[2], *tokens[-keep:], ret])[None]
    state = lm(inputs_embeds=embeds, output_hidden_states=True).hidden_states[-1][0, -1]
    asked = F.normalize(linear("text_hidden_fcs.0.0", state), dim=0)
    return [
        float(
            maps["logit_scale"].exp()
            * asked
            @ F.normalize(linear("visual_fc", seen(sticker)), dim=0)
        )
        for sticker in row["candidates"]
    ]


@pytest.mark.parametrize(
    ("hidden_size", "width", "prefix", "row"),
    [(32, 32, "model.", True), (32, 16, "module.model.", False)],
)
def test_scores_are_those_of_opt_and_clip_with_the_published_maps(
    tmp_path, hidden_size, width, prefix, row
):
    opt = save_opt(tmp_path / "opt", hidden_size, width)
    state = published_state(width, prefix, row)
    baseline = build(tmp_path, opt, save_maps(tmp_path / "maps", state))
    clip = CLIPVisionModel.from_pretrained(checkpoints(tmp_path)[1]).eval()
    given = rows(9)
    assert any(turn["sticker_id"] for row in given for turn in row["utterances"])
    with torch.no_grad():
        for row, scores in zip(given, baseline.rank(given).scores, strict=True):
            wanted = wanted_scores(row, opt, clip, state, baseline)
            np.testing.assert_allclose(scores, wanted, atol=1e-5)
            assert np.ptp(wanted) > 1e-3


def turn(speaker, text, sticker=None):
    return {"speaker": speaker, "text": text, "sticker_id": sticker, "emotion": None}


def test_the_newest_is_kept_and_no_half_image(tmp_path, opt):
    state = published_state()
    maps = save_maps(tmp_path / "maps", state)
    clip = CLIPVisionModel.from_pretrained(checkpoints(tmp_path)[1]).eval()
    row = {**rows(1)[0], "utterances": [turn(0, "oh no", "003"), turn(1, "thank you", "001"),
                                        turn(0, "what a surprise")]}  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(opt)
    last = len(tokenizer(" A: what a surprise", add_special_tokens=False)["input_ids"])
    for limit, kept in (
        (last, last),
        (last + 1, last),
        (last + IMAGE_TOKENS - 1, last),
        (last + IMAGE_TOKENS, last + IMAGE_TOKENS),
        (last + IMAGE_TOKENS + 2, last + IMAGE_TOKENS + 2),
        (80, 80),
    ):
        baseline = build(tmp_path, opt, maps, max_dialogue_tokens=limit)
        with torch.no_grad():
            wanted = wanted_scores(row, opt, clip, state, baseline, keep=kept)
        np.testing.assert_allclose(baseline.rank([row]).scores[0], wanted, atol=1e-5)


def test_a_turn_without_words_is_its_speaker_and_its_sticker(tmp_path, opt):
    baseline = build(tmp_path, opt, save_maps(tmp_path / "maps", published_state()))
    row = {**rows(1)[0], "utterances": [turn(1, "", "002"), turn(0, "oh no")]}
    prompt = baseline._prompts([row])
    tokenizer = baseline.tokenizer
    speaker, words = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("B:", " A: oh no")
    )
    assert prompt["input_ids"][0].tolist() == [2, *speaker, *[0] * IMAGE_TOKENS, *words, 0]
    place = 2 * IMAGE_TOKENS
    shown = [-1] * (1 + len(speaker)) + [place, place + 1, place + 2] + [-1] * (len(words) + 1)
    assert prompt["shown"][0].tolist() == shown


def test_zero_shot_nothing_learns(tmp_path):
    zero_shot = tiny_baseline("fromage", tmp_path, zero_shot=True)
    trained = tiny_baseline("fromage", tmp_path)
    assert (zero_shot.trains, trained.trains) == (False, True)
    assert (zero_shot.name, trained.name) == ("FROMAGe (zero-shot)", "FROMAGe")
    zero_shot.save_pretrained(tmp_path / "saved")
    assert not load_baseline(tmp_path / "saved").trains


def test_only_maps_and_ret_learn(tmp_path):
    baseline = tiny_baseline("fromage", tmp_path)
    baseline.train()
    assert not baseline.lm.training and not baseline.vision.clip.training
    baseline(**baseline.collate([samples(baseline)[n] for n in range(12)]))["loss"].backward()
    learns = {name: p.grad for name, p in baseline.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in learns} == {
        "ret", "visual_embeddings", "visual_fc", "text_fc", "logit_scale",
    }  # fmt: skip
    assert all(grad is not None and grad.abs().sum() > 0 for grad in learns.values())


def test_samples_with_the_same_sticker_do_not_push_each_other_away(tmp_path):
    baseline = tiny_baseline("fromage", tmp_path)
    same = [{**samples(baseline)[n], "sticker_id": "002"} for n in range(5)]
    assert baseline(**baseline.collate(same))["loss"].item() == pytest.approx(0, abs=1e-6)
    different = [samples(baseline)[n] for n in range(12)]
    assert baseline(**baseline.collate(different))["loss"].item() > 0.5


def test_an_opt_of_half_precision_stays_one(tmp_path, opt):
    maps = save_maps(tmp_path / "maps", published_state())
    whole, half = (build(tmp_path, opt, maps, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert {p.dtype for p in half.lm.parameters()} == {torch.bfloat16}
    assert half.text_fc.weight.dtype == torch.float32
    assert tiny_baseline("fromage", tmp_path, dtype="bfloat16").lm.dtype == torch.bfloat16
    exact, rough = (np.stack(each.rank(rows()).scores) for each in (whole, half))
    assert 0 < np.abs(exact - rough).max() < 0.2
    half.save_pretrained(tmp_path / "saved")
    loaded = load_baseline(tmp_path / "saved")
    loaded.use_stickers(stickers())
    assert loaded.lm.dtype == torch.bfloat16
    np.testing.assert_array_equal(rough, np.stack(loaded.rank(rows()).scores))


class Foreign:
    """Nothing that a file of tensors should hold."""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("model.visual_fc.bias"), "holds no visual_fc.bias"),
        (lambda state: state.update({"model.visual_fc.weight": torch.zeros(SHARED, 5)}),
         r"visual_fc.weight has the shape \(12, 5\), and this OPT and CLIP take \(12, 32\)"),
        (lambda state: state.update({"ret_input_embeddings.weight": torch.zeros(4096)}),
         r"ret has the shape \(4096,\), and this OPT and CLIP take \(32,\)"),
        (lambda state: state.update(more=Foreign()), "cannot be loaded as tensors alone"),
    ],
)  # fmt: skip
def test_a_spoilt_file_of_maps_is_named(tmp_path, opt, spoil, message):
    state = published_state()
    spoil(state)
    maps = save_maps(tmp_path / "maps", state)
    with pytest.raises(ValueError, match=rf"pretrained_ckpt\.pth\.tar: {message}") as caught:
        build(tmp_path, opt, maps)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_maps_is_named(tmp_path, opt):
    maps = tmp_path / "maps"
    with pytest.raises(ValueError, match=r"model_args\.json: not FROMAGe's arguments"):
        build(tmp_path, opt, str(maps))
    save_maps(maps, published_state(), text_emb_layers=[-1, 3])
    with pytest.raises(ValueError, match=r"model_args\.json: only maps of OPT's last layer"):
        build(tmp_path, opt, str(maps))
    save_maps(maps, published_state(), shared_emb_dim=None)
    with pytest.raises(ValueError, match=r"model_args\.json: only maps of OPT's last layer"):
        build(tmp_path, opt, str(maps))
    save_maps(maps, published_state())
    for content, message in ((b"no archive", "cannot be loaded"), (b"", "cannot be loaded")):
        (maps / "pretrained_ckpt.pth.tar").write_bytes(content)
        with pytest.raises(ValueError, match=rf"ckpt\.pth\.tar: {message}") as caught:
            build(tmp_path, opt, str(maps))
        assert "\n" not in str(caught.value)
    torch.save([1, 2], maps / "pretrained_ckpt.pth.tar")
    with pytest.raises(ValueError, match=r"ckpt\.pth\.tar: holds no state_dict"):
        build(tmp_path, opt, str(maps))
    (maps / "pretrained_ckpt.pth.tar").unlink()
    with pytest.raises(ValueError, match=r"ckpt\.pth\.tar: cannot be loaded"):
        build(tmp_path, opt, str(maps))


def test_what_cannot_be_is_refused(tmp_path, opt):
    maps = save_maps(tmp_path / "maps", published_state())
    text, vision = checkpoints(tmp_path)
    for message, given in {
        "name both": {"text": text},
        "not that of a bert; or, as scratch": {"text": text, "vision": vision},
        "settles vocab_size": {"text": text, "vision": vision, "scratch": {"vocab_size": 9}},
        "no setting 'context', only zero_shot": {"context": "dialogue"},
        "dtype is float32 or bfloat16, not 'int8'": {
            "text": opt, "vision": vision, "dtype": "int8",
        },
        "settles visual_tokens: leave it out": {
            "text": opt, "vision": vision, "checkpoint": maps, "visual_tokens": 3,
        },
        "91 tokens asked for, and .*opt has room for 90": {
            "text": opt, "vision": vision, "max_dialogue_tokens": 89,
        },
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message) as caught:
            baseline_class("fromage").build(emotions=["joy"], **given)
        assert "\n" not in str(caught.value)


def test_an_opt_that_lacks_a_weight_is_refused(tmp_path, opt):
    weights = load_file(tmp_path / "opt" / "model.safetensors")
    lacking = sorted(weights)[0]
    weights.pop(lacking)
    save_file(weights, tmp_path / "opt" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"give an OPT's folder .*1 weights are missing"):
        build(tmp_path, opt, None)


def test_without_maps_it_says_so_and_still_ranks(tmp_path, opt, caplog):
    baseline = build(tmp_path, opt, None)
    assert "random ones are taken" in caplog.text
    torch.testing.assert_close(baseline.ret, baseline.lm.get_input_embeddings().weight.mean(0))
    assert np.isfinite(np.stack(baseline.rank(rows()).scores)).all()


def test_an_earlier_sticker_is_seen(tmp_path):
    baseline = tiny_baseline("fromage", tmp_path)
    row = {**rows(1)[0], "utterances": [turn(0, "oh no", "003"), turn(1, "thank you")]}
    other = copy.deepcopy(row)
    other["utterances"][0]["sticker_id"] = "000"
    first, second = baseline.rank([row, other]).scores
    assert np.abs(first - second).max() > 1e-4


def test_the_script_saves_it_as_it_comes_and_says_so(tmp_path, opt, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import train_baseline

    write_mini_release(tmp_path / "release", dialogues=(8, 2, 2, 2), size=32)
    prepare(tmp_path / "release", tmp_path / "data")
    own = {"text": opt, "checkpoint": save_maps(tmp_path / "maps", published_state()),
           "settings": {"max_dialogue_tokens": 80}}  # fmt: skip
    recipe = {
        "training": {"max_steps": 3, "use_cpu": True, "eval_strategy": "no",
                     "load_best_model_at_end": False},
        "baselines": {"fromage": own},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text, vision = checkpoints(tmp_path)
    saved = tmp_path / "saved"
    # What the table gives to all, a BERT, does not push the baseline's own OPT aside.
    argv = ["fromage", tmp_path / "recipe.yaml", "--data", tmp_path / "data", "--output", saved,
            "--text", text, "--vision", vision]  # fmt: skip
    assert train_baseline.main([str(each) for each in argv]) == 0
    assert "not trained (zero-shot)" in capsys.readouterr().out
    record = json.loads((saved / "training.json").read_text())
    assert record["steps"] == 0 and record["backbones"]["text"] == "opt"
    assert record["frozen_parameters"] == record["parameters"]["total"] > 0
    loaded = load_baseline(saved)
    loaded.use_stickers(stickers())
    ours = build(tmp_path, opt, str(tmp_path / "maps")).rank(rows()).scores
    np.testing.assert_array_equal(np.stack(ours), np.stack(loaded.rank(rows()).scores))
    # Trained, it is another one.
    change = ["--set", "baselines.fromage.settings.zero_shot=false", "--restart"]
    assert train_baseline.main([*(str(each) for each in argv), *change]) == 0
    record = json.loads((saved / "training.json").read_text())
    assert record["steps"] == 3 and record["frozen_parameters"] < record["parameters"]["total"]
