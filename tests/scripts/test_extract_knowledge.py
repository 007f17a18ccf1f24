# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from tiny_comet import tiny_comet

from dataset_mod.prepared import load_prepared, prepare
from dataset_mod.synthetic import write_mini_release
from modeling_cks.knowledge import KnowledgeExtractor, KnowledgeStore, normalize_text

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location(
            "extract_knowledge", SCRIPTS / "extract_knowledge.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def comet(tmp_path_factory):
    return tiny_comet(tmp_path_factory.mktemp("comet") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_mini_release(folder / "release", dialogues=(12, 4, 4, 4))
    prepare(folder / "release", folder / "prepared")
    return folder / "prepared"


def all_texts(data, splits=None):
    tables = load_prepared(data).splits
    return [
        normalize_text(one["text"])
        for split in splits or tables
        for row in tables[split]
        for one in row["utterances"]
    ]


def test_every_distinct_utterance_is_extracted_once(script, data, comet, tmp_path, capsys):
    store = tmp_path / "store"
    arguments = [str(data), "--comet", str(comet), "--store", str(store), "--device", "cpu"]
    assert script.main(arguments) == 0
    texts = all_texts(data)
    distinct = sorted(set(texts))
    assert 10 < len(distinct) < len(texts)
    printed = capsys.readouterr().out
    assert f"{len(distinct)} distinct of {len(texts)} utterances, 0 already there" in printed
    assert "utterances/s" in printed
    extractor = KnowledgeExtractor.from_pretrained(comet)
    held = KnowledgeStore(store, extractor.hidden_size, extractor.key)
    assert len(held) == len(distinct)
    np.testing.assert_allclose(held.get(distinct), extractor.features(distinct), atol=1e-5)
    # Again: nothing is left to do, and nothing is written.
    size = (held.path / "features.f32").stat().st_size
    assert script.main(arguments) == 0
    assert f", {len(distinct)} already there" in capsys.readouterr().out
    assert (held.path / "features.f32").stat().st_size == size


def test_settings_reach_the_store(script, data, comet, tmp_path):
    arguments = [str(data), "--comet", str(comet), "--device", "cpu", "--splits", "validation"]
    more = ["--feature", "encoder_mean", "--no-gen-token", "--batch-size", "5"]
    assert script.main([*arguments, *more, "--store", str(tmp_path)]) == 0
    extractor = KnowledgeExtractor.from_pretrained(comet, feature="encoder_mean", gen_token=False)
    held = KnowledgeStore(tmp_path, extractor.hidden_size, extractor.key)
    texts = sorted(set(all_texts(data, ["validation"])))
    assert len(held) == len(texts)
    np.testing.assert_allclose(held.get(texts), extractor.features(texts), atol=1e-5)


def test_the_work_list_is_a_partition_by_length(script):
    texts = [str(i) * (i % 7 + 1) for i in range(1000)]
    chunks = script.work_list(texts)
    flat = [text for chunk in chunks for text in chunk]
    assert sorted(flat) == sorted(texts) and max(map(len, chunks)) == 256
    lengths = [len(text) for text in flat]
    assert lengths == sorted(lengths, reverse=True)
    assert script.work_list(texts[::-1]) == chunks and script.work_list([]) == []
    # Few texts are shared out too; many lie in chunks as large as ever.
    for count, sizes in ((1000, {125}), (90, {12, 6}), (20, {8, 4}), (3, {3})):
        few = script.work_list(texts[:count], 2)
        assert {len(chunk) for chunk in few} == sizes
        assert [text for chunk in few for text in chunk] == [
            text for chunk in script.work_list(texts[:count]) for text in chunk
        ]
    assert max(map(len, script.work_list([f"{n}" for n in range(9000)], 2))) == 256


def test_killed_and_resumed_without_loss(data, comet, tmp_path):
    command = [sys.executable, "-c", KILLED, str(SCRIPTS), str(data), str(comet), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = SCRIPTS.parent
    extractor = KnowledgeExtractor.from_pretrained(comet)

    def held():
        return KnowledgeStore(tmp_path, extractor.hidden_size, extractor.key)

    child = subprocess.Popen(
        [*command, "slow"], env=environment, cwd=root, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not len(held()) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    first = len(held())
    distinct = sorted(set(all_texts(data)))
    assert 0 < first < len(distinct)
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f", {first} already there" in done.stdout
    assert f"{len(distinct) - first} extracted" in done.stdout
    assert len(held()) == len(distinct)
    np.testing.assert_allclose(held().get(distinct), extractor.features(distinct), atol=1e-5)


# The script in small chunks and, where asked, slow enough to be caught at work.
KILLED = """
import sys, time
scripts, data, comet, store, *slow = sys.argv[1:]
sys.path.insert(0, scripts)
import extract_knowledge
extract_knowledge._CHUNK = extract_knowledge._LEAST_CHUNK = 4
if slow:
    add = extract_knowledge.KnowledgeStore.add
    extract_knowledge.KnowledgeStore.add = lambda *a: (add(*a), time.sleep(1))
sys.exit(extract_knowledge.main([data, "--comet", comet, "--store", store, "--device", "cpu"]))
"""


def test_two_processes_share_the_work_and_go_on_after_a_kill(data, comet, tmp_path):
    (tmp_path / "part.py").write_text(KILLED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0", "part.py"]
    command += [str(SCRIPTS), str(data), str(comet), str(tmp_path / "store")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parent)}
    extractor = KnowledgeExtractor.from_pretrained(comet)

    def held():
        return KnowledgeStore(tmp_path / "store", extractor.hidden_size, extractor.key)

    child = subprocess.Popen(
        [*command, "slow"], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(held()) < 8 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    # The workers are in sessions of their own.
    everyone = [child, *psutil.Process(child.pid).children(recursive=True)]
    for process in everyone:
        process.kill()
    for process in everyone:
        process.wait()
    first = len(held())
    distinct = sorted(set(all_texts(data)))
    assert 8 <= first < len(distinct)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already there") == 1  # one process speaks for both
    assert f", {first} already there" in done.stdout
    assert f"{len(distinct) - first} extracted by 2 processes" in done.stdout
    # Each text once, whoever extracted it, with the features that one process gives it.
    assert len(held()) == len(distinct)
    size = (held().path / "index.bin").stat().st_size
    assert size == len(distinct) * KnowledgeStore._DIGEST
    np.testing.assert_allclose(held().get(distinct), extractor.features(distinct), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comet": "nowhere/comet"}, "no COMET can be loaded from 'nowhere/comet'"),
        ({"splits": "test_medium"}, "has no split 'test_medium', only train, validation"),
    ],
)
def test_bad_input_is_named(script, data, comet, change, message):
    arguments = [str(data), "--comet", change.get("comet", str(comet)), "--device", "cpu"]
    arguments += ["--splits", change["splits"]] if "splits" in change else []
    with pytest.raises(ValueError, match=message):
        script.main(arguments)


def test_bad_input_is_one_line_and_exit_code_2(comet, tmp_path):
    command = [sys.executable, str(SCRIPTS / "extract_knowledge.py"), "nowhere"]
    done = subprocess.run(
        [*command, "--comet", str(comet)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last == "extract_knowledge.py: nowhere: no such folder"
