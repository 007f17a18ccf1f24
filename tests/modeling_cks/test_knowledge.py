# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_comet import tiny_comet, tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
)

from modeling_cks.knowledge import (
    FEATURES,
    RELATIONS,
    KnowledgeExtractor,
    KnowledgeStore,
    MissingKnowledgeError,
    _first_step,
    normalize_text,
)

TEXTS = [
    "I lost my job.",
    "Oh no! What now, who is going to tell a friend?",
    "hi",
    "",
    "你好 😀",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_comet(tmp_path_factory.mktemp("comet") / "tiny")


def plain_states(path, feature, text, gen_token=True, width=48):
    """One source at a time, through the whole model, as one would write it without thinking."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32).eval()
    states = []
    for relation in RELATIONS:
        source = f"{text} {relation} [GEN]" if gen_token else f"{text} {relation}"
        batch = tokenizer(source, return_tensors="pt")
        assert batch["input_ids"].shape[1] <= width
        prefix = [[2]] if feature == "decoder_start" else [[2, 0]]
        with torch.no_grad():
            out = model.model(**batch, decoder_input_ids=torch.tensor(prefix))
        if feature == "encoder_mean":
            states.append(out.encoder_last_hidden_state[0].mean(0))
        else:
            states.append(out.last_hidden_state[0, -1])
    states = torch.stack(states).numpy()
    return np.stack([states[:3].sum(0), states[3:].sum(0)])


@pytest.mark.parametrize("feature", FEATURES)
def test_features_equal_a_plain_forward_of_each_source(checkpoint, feature):
    extractor = KnowledgeExtractor.from_pretrained(checkpoint, feature=feature, batch_size=7)
    got = extractor.features(TEXTS)
    want = np.stack([plain_states(checkpoint, feature, text) for text in TEXTS])
    assert got.dtype == np.float32 and got.shape == (len(TEXTS), 2, extractor.hidden_size)
    np.testing.assert_allclose(got, want, atol=1e-5)
    # Not vacuous: texts differ, and so do the speaker's side and the others'.
    assert np.abs(want[0] - want[1]).max() > 0.1 and np.abs(want[:, 0] - want[:, 1]).max() > 0.1


def test_one_step_is_the_decoders_own_at_less_work(checkpoint):
    extractor = KnowledgeExtractor.from_pretrained(checkpoint, batch_size=64)
    torch.manual_seed(0)
    for name, parameter in extractor.model.named_parameters():
        if name.endswith("bias"):  # as drawn they are zero, and would show nothing
            torch.nn.init.normal_(parameter, std=0.5)
    ids, mask = extractor._pad([[0, 9, 8, 7, 12, 30, 2], [0, 9, 2], [0, 31, 32, 33, 2]])
    with torch.no_grad():
        encoded = extractor.model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
        decoder = extractor.model.get_decoder()
        asked = {
            "input_ids": torch.tensor([[2]] * 3),
            "encoder_hidden_states": encoded,
            "encoder_attention_mask": mask,
        }
        with FlopCounterMode(display=False) as whole:
            want = decoder(**asked, use_cache=False).last_hidden_state[:, 0]
        with FlopCounterMode(display=False) as step:
            got = _first_step(decoder, 2, encoded, mask)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    assert (want[0] - want[1]).abs().max() > 0.1
    assert step.get_total_flops() < whole.get_total_flops() / 2


def test_another_kind_of_decoder_takes_its_own_step(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr("modeling_cks.knowledge._first_step", None)
    config = MBartConfig.from_pretrained(checkpoint)
    MBartForConditionalGeneration(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    got = KnowledgeExtractor.from_pretrained(tmp_path).features(TEXTS[:1])
    want = plain_states(tmp_path, "decoder_start", TEXTS[0])
    np.testing.assert_allclose(got[0], want, atol=1e-5)


def test_the_feature_modes_differ(checkpoint):
    made = [
        KnowledgeExtractor.from_pretrained(checkpoint, feature=feature).features(TEXTS[:1])
        for feature in FEATURES
    ]
    assert min(np.abs(made[i] - made[j]).max() for i, j in [(0, 1), (0, 2), (1, 2)]) > 0.1


@pytest.mark.parametrize("feature", FEATURES)
def test_features_do_not_depend_on_the_batch(checkpoint, feature):
    together = KnowledgeExtractor.from_pretrained(checkpoint, feature=feature, batch_size=64)
    alone = KnowledgeExtractor.from_pretrained(checkpoint, feature=feature, batch_size=1)
    want = np.concatenate([alone.features([text]) for text in TEXTS])
    np.testing.assert_allclose(together.features(TEXTS), want, atol=1e-5)
    backwards = KnowledgeExtractor.from_pretrained(checkpoint, feature=feature, batch_size=4)
    np.testing.assert_allclose(backwards.features(TEXTS[::-1])[::-1], want, atol=1e-5)


def test_a_long_utterance_is_cut_and_its_relation_is_not(checkpoint):
    extractor = KnowledgeExtractor.from_pretrained(checkpoint, max_source_tokens=20)
    tokenizer = extractor.tokenizer
    text = "I am so sad because xWant [GEN] is a friend of my party and nobody came " * 5
    for relation, source in zip(
        RELATIONS, extractor.sources((text, relation) for relation in RELATIONS), strict=True
    ):
        assert len(source) == 20
        whole = tokenizer(f"{text} {relation} [GEN]")["input_ids"]
        tail = tokenizer.convert_ids_to_tokens(source)[-5:]
        assert tail == ["Ġ", relation, "Ġ", "[GEN]", "</s>"]
        assert source[:15] == whole[:15]
    # What is cut away does not count, what stays does.
    features = extractor.features([text, text + " and then", "Not " + text])
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert np.abs(features[0] - features[2]).max() > 1e-3


def test_without_gen_the_source_ends_with_the_relation(tmp_path, checkpoint):
    path = tiny_comet(tmp_path / "aaai", gen_token=False)
    with pytest.raises(ValueError, match=r"\[GEN\].*without \[GEN\]"):
        KnowledgeExtractor.from_pretrained(path)
    got = KnowledgeExtractor.from_pretrained(path, gen_token=False).features(["hi there"])[0]
    want = plain_states(path, "decoder_start", "hi there", gen_token=False)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_distinct_text_is_computed_once(checkpoint, monkeypatch):
    extractor = KnowledgeExtractor.from_pretrained(checkpoint)
    sources = []
    states = extractor._states
    monkeypatch.setattr(extractor, "_states", lambda rows: sources.extend(rows) or states(rows))
    first = extractor.features(["hi", "you", "hi", " hi  ", "hi"])
    assert len(sources) == 2 * len(RELATIONS)
    assert (first[[0, 2, 3]] == first[4]).all()
    again = extractor.features(["you", "hi"])
    assert len(sources) == 2 * len(RELATIONS)
    np.testing.assert_array_equal(again, first[[1, 0]])
    assert extractor.features([]).shape == (0, 2, extractor.hidden_size)


def test_progress_counts_every_distinct_text(checkpoint):
    extractor = KnowledgeExtractor.from_pretrained(checkpoint, batch_size=5)
    seen = []
    extractor.features(["a", "bb", "a", "a party today", "cc"], progress=seen.append)
    assert sum(seen) == 4


def test_inferences_are_beam_search_per_source(checkpoint):
    extractor = KnowledgeExtractor.from_pretrained(checkpoint, max_target_tokens=6)
    tokenizer, model = extractor.tokenizer, extractor.model
    got = extractor.infer(["I lost my job.", "hi"], num_beams=3)
    assert [list(row) for row in got] == [list(RELATIONS)] * 2
    for text, row in zip(["I lost my job.", "hi"], got, strict=True):
        for relation, line in row.items():
            batch = tokenizer(f"{text} {relation} [GEN]", return_tensors="pt")
            out = model.generate(**batch, num_beams=3, do_sample=False, max_new_tokens=6)
            want = tokenizer.decode(out[0], skip_special_tokens=True).replace("[GEN]", " ")
            assert line == (normalize_text(want) or "none")
    assert extractor.infer(["hi"], relations=["oWant"], num_beams=3) == [{"oWant": got[1]["oWant"]}]
    assert extractor.infer([]) == []
    with pytest.raises(ValueError, match="unknown relation 'isA'"):
        extractor.infer(["hi"], relations=["isA"])


def test_fingerprint_follows_what_features_depend_on(tmp_path, checkpoint):
    def fingerprint(path, **more):
        return KnowledgeExtractor.from_pretrained(path, **more).fingerprint

    first = fingerprint(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == first
    assert fingerprint(tiny_comet(tmp_path / "other", seed=1)) != first
    assert fingerprint(checkpoint, dtype=torch.bfloat16) != first
    config = (tmp_path / "copy" / "config.json").read_text()
    changed = config.replace('"decoder_start_token_id": 2', '"decoder_start_token_id": 0')
    assert changed != config
    (tmp_path / "copy" / "config.json").write_text(changed)
    assert fingerprint(tmp_path / "copy") != first
    keys = {
        KnowledgeExtractor.from_pretrained(checkpoint, **more).key
        for more in [
            {},
            {"feature": "decoder_bos"},
            {"gen_token": False},
            {"max_source_tokens": 40},
        ]
    }
    assert len(keys) == 4 and all(first in key for key in keys)


def test_loads_from_a_subfolder_and_from_the_hub_cache(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path / "whole" / "comet")
    want = KnowledgeExtractor.from_pretrained(checkpoint)
    got = KnowledgeExtractor.from_pretrained(tmp_path / "whole", subfolder="comet")
    assert got.fingerprint == want.fingerprint
    repository = tmp_path / "hub" / "models--someone--comet"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(checkpoint, repository / "snapshots" / ("0" * 40))
    got = KnowledgeExtractor.from_pretrained("someone/comet", cache_dir=tmp_path / "hub")
    assert got.fingerprint == want.fingerprint


def test_a_missing_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(MissingKnowledgeError, match="nowhere.*train_comet.py"):
        KnowledgeExtractor.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingKnowledgeError, match="someone/no-such-comet.*Hub"):
        KnowledgeExtractor.from_pretrained("someone/no-such-comet", cache_dir=tmp_path)


def test_a_checkpoint_that_is_no_comet_is_refused(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path / "bart")
    tiny_tokenizer(relations=RELATIONS[:4]).save_pretrained(tmp_path / "bart")
    with pytest.raises(ValueError, match="does not know oReact, oWant as tokens.*no COMET"):
        KnowledgeExtractor.from_pretrained(tmp_path / "bart")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"feature": "encoder"}, "feature 'encoder'"),
        ({"max_source_tokens": 65}, "max_source_tokens is 65.*64 positions"),
        ({"max_source_tokens": 5}, "max_source_tokens is 5"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(checkpoint, setting, message):
    with pytest.raises(ValueError, match=message):
        KnowledgeExtractor.from_pretrained(checkpoint, **setting)


def test_comet_mini_for_real(shared_dir):
    path = shared_dir / "models" / "comet-mini"
    if not path.is_dir():
        pytest.skip("needs ../shared/models/comet-mini")
    extractor = KnowledgeExtractor.from_pretrained(path)
    texts = ["I have to go to the hospital.", "Thank you so much!"]
    want = np.stack([plain_states(path, "decoder_start", text) for text in texts])
    np.testing.assert_allclose(extractor.features(texts), want, atol=1e-5)
    lines = extractor.infer(texts[:1], relations=["xWant", "xReact"])[0]
    assert all(line and "[GEN]" not in line and "<" not in line for line in lines.values())
    assert lines["xWant"].startswith("to ")


# ---- the store


def draw(count, hidden=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2, hidden)).astype(np.float32)


def test_store_gives_back_what_was_added(tmp_path):
    store = KnowledgeStore(tmp_path, 4, "key")
    assert len(store) == 0 and not list(tmp_path.iterdir())  # reading makes nothing
    features = draw(3)
    store.add(["a", "b  b", "ü 😀"], features)
    assert len(store) == 3
    np.testing.assert_array_equal(store.get([" b b", "ü 😀", "a", "a"]), features[[1, 2, 0, 0]])
    assert store.missing(["c", "a", " c ", "d"]) == ["c", "d"]
    reopened = KnowledgeStore(tmp_path, 4, "key")
    np.testing.assert_array_equal(reopened.get(["a", "b b", "ü 😀"]), features)
    assert isinstance(reopened._data, np.memmap)


def test_store_keeps_the_first_of_two(tmp_path):
    store = KnowledgeStore(tmp_path, 4, "key")
    features = draw(4)
    store.add(["a", "b", "a "], features[:3])
    store.add(["b", "c"], features[2:])
    assert len(store) == 3
    np.testing.assert_array_equal(store.get(["a", "b", "c"]), features[[0, 1, 3]])


def test_store_names_what_is_missing(tmp_path):
    store = KnowledgeStore(tmp_path, 4, "key")
    store.add(["a"], draw(1))
    with pytest.raises(MissingKnowledgeError, match="no knowledge of 2 of 3 texts.*'b c'"):
        store.get(["a", "b  c", "d"])


def test_stores_of_two_keys_do_not_mix(tmp_path):
    one, other = KnowledgeStore(tmp_path, 4, "one"), KnowledgeStore(tmp_path, 4, "other")
    one.add(["a"], draw(1))
    assert other.missing(["a"]) == ["a"]
    other.add(["a"], draw(1, seed=1))
    np.testing.assert_array_equal(KnowledgeStore(tmp_path, 4, "one").get(["a"]), draw(1))


def test_store_refuses_another_size_and_bad_features(tmp_path):
    store = KnowledgeStore(tmp_path, 4, "key")
    store.add(["a"], draw(1))
    with pytest.raises(ValueError, match="holds features of size 4.*not of size 8"):
        KnowledgeStore(tmp_path, 8, "key")
    with pytest.raises(ValueError, match="shape"):
        store.add(["b"], draw(1, hidden=8))
    bad = draw(2)
    bad[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="features of 'c' are not finite"):
        store.add(["b", "c"], bad)
    assert len(store) == 1
    (store.path / "key.json").write_text("{")
    with pytest.raises(ValueError, match="not a readable knowledge store"):
        KnowledgeStore(tmp_path, 4, "key")


@pytest.mark.parametrize("name", ["index.bin", "features.f32"])
@pytest.mark.parametrize("cut", [1, 15, 33])
def test_store_survives_a_torn_tail(tmp_path, name, cut):
    features = draw(4)
    store = KnowledgeStore(tmp_path, 4, "key")
    store.add(["a", "b", "c"], features[:3])
    path = store.path / name
    whole = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(whole - cut)
    row = 16 if name == "index.bin" else 32
    left = (whole - cut) // row
    torn = KnowledgeStore(tmp_path, 4, "key")
    assert torn.missing(["a", "b", "c"]) == ["a", "b", "c"][left:]
    np.testing.assert_array_equal(torn.get(["a", "b", "c"][:left]), features[:left])
    torn.add(["d", "c"], features[[3, 2]])
    again = KnowledgeStore(tmp_path, 4, "key")
    np.testing.assert_array_equal(again.get(["d", "c"]), features[[3, 2]])
    assert (again.path / "features.f32").stat().st_size == 32 * len(again)
    assert (again.path / "index.bin").stat().st_size == 16 * len(again)


def test_a_reader_sees_what_a_writer_adds(tmp_path):
    reader, writer = KnowledgeStore(tmp_path, 4, "key"), KnowledgeStore(tmp_path, 4, "key")
    writer.add(["a"], draw(1))
    np.testing.assert_array_equal(reader.get(["a"]), draw(1))
    held = reader.get(["a"])
    writer.add(["b"], draw(1, seed=1))
    np.testing.assert_array_equal(reader.get(["b"]), draw(1, seed=1))
    np.testing.assert_array_equal(held, draw(1))


def _write_many(folder, worker):
    store = KnowledgeStore(folder, 4, "key")
    for i in range(40):
        texts = [f"{worker} {i}", f"shared {i}"]
        store.add(texts, np.stack([np.full((2, 4), worker), np.full((2, 4), 100 + i)]))


def test_writers_take_turns(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(tmp_path, w)) for w in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = KnowledgeStore(tmp_path, 4, "key")
    assert len(store) == 3 * 40 + 40
    for worker in range(3):
        assert (store.get([f"{worker} {i}" for i in range(40)]) == worker).all()
    want = np.broadcast_to(np.arange(100, 140)[:, None, None], (40, 2, 4))
    np.testing.assert_array_equal(store.get([f"shared {i}" for i in range(40)]), want)


def test_a_killed_writer_loses_nothing_it_had_added(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from modeling_cks.knowledge import KnowledgeStore\n"
        "store = KnowledgeStore(sys.argv[1], 4, 'key')\n"
        "for i in range(10**6):\n"
        "    store.add([str(i)], np.full((1, 2, 4), i, dtype=np.float32))\n"
        "    print(i, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    for line in child.stdout:
        if int(line) >= 50:
            child.kill()
            break
    last = max([50, *(int(line) for line in child.stdout if line.strip())])
    child.wait()
    store = KnowledgeStore(tmp_path, 4, "key")
    assert len(store) >= last + 1
    np.testing.assert_array_equal(
        store.get([str(i) for i in range(len(store))])[:, 0, 0], np.arange(len(store))
    )
    store.add(["after"], draw(1))  # the lock died with its holder
    np.testing.assert_array_equal(KnowledgeStore(tmp_path, 4, "key").get(["after"]), draw(1))


def test_extractor_reads_and_fills_its_store(tmp_path, checkpoint, monkeypatch):
    extractor = KnowledgeExtractor.from_pretrained(checkpoint, store=tmp_path)
    made = extractor.features(["hi", "you"])
    store = KnowledgeStore(tmp_path, extractor.hidden_size, extractor.key)
    np.testing.assert_array_equal(store.get(["hi", "you"]), made)
    other = KnowledgeExtractor.from_pretrained(checkpoint, store=tmp_path)
    monkeypatch.setattr(other, "_states", lambda rows: pytest.fail("computed again"))
    np.testing.assert_array_equal(other.features(["you", "hi"]), made[::-1])
