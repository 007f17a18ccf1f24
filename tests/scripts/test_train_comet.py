# SPDX-License-Identifier: Apache-2.0
import csv
import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_comet import tiny_comet, tiny_tokenizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from modeling_cks.knowledge import RELATIONS, KnowledgeExtractor

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
COLUMNS = ["event", *RELATIONS, "prefix", "split"]
TINY = ["--d-model", "32", "--layers", "1", "--vocab-size", "400"]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("train_comet", SCRIPTS / "train_comet.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


def write_csv(path, rows, opener=open):
    """Write (event, {relation: tails}, split) rows in the layout of ATOMIC v4."""
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="[]")
        writer.writeheader()
        for event, tails, split in rows:
            lists = {relation: json.dumps(tails.get(relation, [])) for relation in RELATIONS}
            writer.writerow({"event": event, **lists, "split": split})
    return path


def toy_rows():
    """Events whose reactions follow from one word, so that a tiny model can learn them."""
    things = ["race", "game", "match", "prize", "vote", "bet", "medal", "cup", "duel", "fight"]
    rows = []
    for i, thing in enumerate(things):
        split = "dev" if i == 3 else "tst" if i == 7 else "trn"
        rows += [
            (f"PersonX wins the {thing}", {"xReact": ["happy"], "oWant": ["to cheer"]}, split),
            (f"PersonX loses the {thing}", {"xReact": ["sad"], "oWant": ["to console"]}, split),
        ]
    return rows


# ---- reading


def test_reads_v4_and_2020_alike(script, tmp_path):
    rows = [
        ("PersonX  naps ", {"xReact": ["rested", "none"], "oWant": [" to   wake PersonX "]}, "trn"),
        ("PersonX naps", {"xEffect": [], "xReact": [""]}, "trn"),
    ]
    want = [("xReact", "rested"), ("xReact", "none"), ("oWant", "to wake PersonX")]
    plain = write_csv(tmp_path / "v4.csv", rows)
    zipped = write_csv(tmp_path / "v4.csv.gz", rows, gzip.open)
    tsv = tmp_path / "train.tsv"
    tsv.write_text(
        "PersonX naps\txReact\trested\nPersonX naps\txReact\tnone\n"
        "PersonX naps\tisAfter\tPersonX works\nPersonX naps\toWant\tto wake PersonX\r\n"
        "PersonX naps\txReact\t\n"
    )
    for path, split in ((plain, "trn"), (zipped, "trn"), (tsv, "")):
        got = list(script.read_atomic(path))
        assert [(one.relation, one.tail) for one in got] == want
        assert {(one.event, one.split) for one in got} == {("PersonX naps", split)}


def test_reads_the_real_files(script, shared_dir):
    path = shared_dir / "data" / "atomic" / "v4_atomic_dev.csv.gz"
    if not path.is_file():
        pytest.skip("needs ../shared/data/atomic")
    triples = list(script.read_atomic(path))
    assert len(triples) > 40_000 and {one.split for one in triples} == {"dev"}
    assert {one.relation for one in triples} == set(RELATIONS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "event,xReact\nhi,[]\n", "no column 'xEffect'"),
        ("a.csv", "", "no column 'event'"),
        ("a.csv", ",".join(COLUMNS) + "\nhi,[],happy,[],[],[],[],[],trn\n", "line 2: xReact is no"),
        ("a.csv", ",".join(COLUMNS) + "\nhi,[],[1],[],[],[],[],[],trn\n", "line 2: xReact is no"),
        ("a.csv", ",".join(COLUMNS) + "\nhi,[]\n", "line 2: xReact is no JSON list"),
        ("a.tsv", "hi\txReact\thappy\nhi\txReact\n", "line 2: 2 columns"),
        ("a.txt", "hi", "neither a .csv"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00broken", "a.csv.gz: broken|a.csv.gz"),
        ("a.tsv", b"\xff\xfe\x00", "a.tsv: broken"),
    ],
)
def test_a_broken_file_is_named(script, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError), match=message) as caught:
        list(script.read_atomic(path))
    if isinstance(caught.value, ValueError):
        assert str(caught.value).startswith(str(path))


# ---- splitting


def test_marked_events_keep_to_their_split(script, tmp_path):
    triples = list(script.read_atomic(write_csv(tmp_path / "a.csv", toy_rows())))
    train, held_out = script.split_triples(triples * 2, 0.5)
    assert {one.split for one in train} == {"trn"} and {one.split for one in held_out} == {"dev"}
    assert (len(train), len(held_out)) == (32, 4)


def test_unmarked_events_are_held_out_whole(script):
    triples = [
        script.Triple(f"event {i}", relation, "none", "tst")
        for i in range(400)
        for relation in RELATIONS
    ]
    train, held_out = script.split_triples(triples, 0.1)
    assert not {one.event for one in train} & {one.event for one in held_out}
    assert len(train) + len(held_out) == len(triples)
    # So many on every machine and in every process: a hash, and no salted one.
    assert len({one.event for one in held_out}) == 35
    assert {one.event for one in held_out} >= {
        "event 31",
        "event 71",
        "event 112",
        "event 301",
        "event 338",
        "event 367",
    }
    again, _ = script.split_triples(triples[::-1], 0.1)
    assert set(again) == set(train)
    with pytest.raises(ValueError, match="none is left to hold out"):
        script.split_triples(triples[:6], 0.0)
    with pytest.raises(ValueError, match="none is left to train on"):
        script.split_triples(triples, 1.0)


# ---- training


def test_sources_are_those_of_extraction_and_targets_start_at_bos(script, tmp_path):
    tokenizer = script.build_tokenizer(["PersonX wins the race", "to cheer"], 300)
    for token in (*RELATIONS, "[GEN]", "PersonX", "PersonY", "PersonZ"):
        assert tokenizer.tokenize(f"it {token}")[-1] == token
    comet = KnowledgeExtractor(
        AutoModelForSeq2SeqLM.from_pretrained(tiny_comet(tmp_path / "any")), tokenizer
    )
    long = "PersonX wins " * 100
    table = script.encode([script.Triple(long, "xWant", "to cheer " * 50, "")], comet)
    assert table.column_names == ["input_ids", "labels"]
    assert table[0]["input_ids"] == comet.sources([(long, "xWant")])[0]
    assert len(table[0]["input_ids"]) == 48 and len(table[0]["labels"]) == 24
    assert tokenizer.decode(table[0]["labels"])[:3] == "<s>"
    assert tokenizer.decode(table[0]["labels"])[-4:] == "</s>"


def test_learns_what_follows_and_says_it_of_new_events(script, tmp_path, capsys):
    atomic = write_csv(tmp_path / "v4.csv", toy_rows())
    output = tmp_path / "comet"
    arguments = [str(atomic), "--output", str(output), *TINY, "--batch-size", "16"]
    assert script.main([*arguments, "--max-steps", "150", "--lr", "3e-3"]) == 0
    result = json.loads((output / "training.json").read_text())
    assert result["steps"] == 150 and result["held_out_inferences"] == 4
    # Uniform over the vocabulary is log(400) = 6; two equally likely answers of two or three
    # tokens and their ends are about 0.25.
    assert result["held_out_loss"] < 0.2
    assert f"held-out loss {result['held_out_loss']:.3f}" in capsys.readouterr().out
    assert {"versions", "machine", "git", "arguments", "seed"} <= set(result)
    comet = KnowledgeExtractor.from_pretrained(output)
    said = comet.infer(["PersonX wins the prize", "PersonX loses the prize"])  # both held out
    assert [row["xReact"] for row in said] == ["happy", "sad"]
    assert [row["oWant"] for row in said] == ["to cheer", "to console"]
    assert not output.with_name("comet.checkpoints").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    # The reported loss is the loss of what was saved.
    triples = [one for one in script.read_atomic(atomic) if one.split == "dev"]
    tokenizer, model = comet.tokenizer, comet.model
    losses = []
    for one in triples:
        batch = tokenizer(f"{one.event} {one.relation} [GEN]", return_tensors="pt")
        labels = tokenizer(one.tail, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses += [model(**batch, labels=labels).loss.item()] * labels.shape[1]
    assert result["held_out_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_a_run_repeats_and_resumes_to_the_same_weights(script, tmp_path, monkeypatch):
    atomic = write_csv(tmp_path / "v4.csv", toy_rows())

    def arguments(name):
        return [str(atomic), "--output", str(tmp_path / name), *TINY, "--epochs", "3"] + [
            "--batch-size",
            "8",
        ]

    def weights(name):
        return (tmp_path / name / "model.safetensors").read_bytes()

    script.main(arguments("one"))
    script.main(arguments("two"))
    assert weights("one") == weights("two")
    script.main([*arguments("other"), "--seed", "1"])
    assert weights("other") != weights("one")

    class KilledError(Exception):
        pass

    step = script.Trainer.training_step

    def stop_in_epoch_three(self, *args, **kwargs):
        if self.state.global_step == 9:
            raise KilledError
        return step(self, *args, **kwargs)

    monkeypatch.setattr(script.Trainer, "training_step", stop_in_epoch_three)
    with pytest.raises(KilledError):
        script.main(arguments("three"))
    assert not (tmp_path / "three").exists()
    with pytest.raises(ValueError, match="run of other arguments"):
        script.main([*arguments("three"), "--lr", "1e-4"])
    seen = []
    monkeypatch.setattr(
        script.Trainer,
        "training_step",
        lambda self, *a, **k: seen.append(self.state.global_step) or step(self, *a, **k),
    )
    script.main(arguments("three"))
    assert seen == [8, 9, 10, 11]
    assert weights("three") == weights("one")


def test_a_bart_is_fine_tuned_and_becomes_a_comet(script, tmp_path):
    base = tiny_comet(tmp_path / "bart")
    tiny_tokenizer(relations=(), gen_token=False).save_pretrained(base)
    with pytest.raises(ValueError, match="no COMET"):
        KnowledgeExtractor.from_pretrained(base)
    before = AutoModelForSeq2SeqLM.from_pretrained(base)
    before.resize_token_embeddings(len(AutoTokenizer.from_pretrained(base)))
    before.save_pretrained(base)
    atomic = write_csv(tmp_path / "v4.csv", toy_rows())
    output = tmp_path / "comet"
    script.main([str(atomic), "--output", str(output), "--base", str(base), "--max-steps", "2"])
    comet = KnowledgeExtractor.from_pretrained(output)
    assert comet.features(["hi"]).shape == (1, 2, 32)
    rows = before.get_input_embeddings().num_embeddings
    after = comet.model.get_input_embeddings().weight
    assert after.shape[0] == rows + 7
    # It goes on from the base: two small steps leave its weights nearly where they were.
    gap = (after[:rows] - before.get_input_embeddings().weight).abs().max()
    assert 0 < gap < 1e-3


def test_what_lies_at_the_output_is_not_touched(script, tmp_path):
    atomic = write_csv(tmp_path / "v4.csv", toy_rows())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match="mine: holds something else"):
        script.main([str(atomic), "--output", str(tmp_path / "mine"), *TINY])
    with pytest.raises(ValueError, match="v4.csv: is a file"):
        script.main([str(atomic), "--output", str(atomic), *TINY])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    # An older COMET of its own gives way, and another seed begins elsewhere.
    output = tmp_path / "comet"
    drawn = []
    for seed in ("0", "1"):
        command = [str(atomic), "--output", str(output), *TINY, "--max-steps", "1", "--seed", seed]
        assert script.main(command) == 0
        assert json.loads((output / "training.json").read_text())["seed"] == int(seed)
        model = AutoModelForSeq2SeqLM.from_pretrained(output)
        drawn.append(model.model.encoder.layers[0].fc1.weight)
    assert (drawn[0] - drawn[1]).abs().max() > 0.1


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    broken = tmp_path / "a.tsv"
    broken.write_text("one column\n")
    command = [sys.executable, str(SCRIPTS / "train_comet.py"), str(broken)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "x")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].startswith(f"train_comet.py: {broken}, line 1: 1 col")
    )
    assert not (tmp_path / "x").exists()


def test_a_base_that_is_not_there_is_named(script, tmp_path):
    atomic = write_csv(tmp_path / "v4.csv", toy_rows())
    with pytest.raises(ValueError, match="--base nowhere/bart: no BART"):
        script.main([str(atomic), "--output", str(tmp_path / "x"), "--base", "nowhere/bart"])
