# SPDX-License-Identifier: Apache-2.0
"""The index against comparison with everything, through changes, kills and several processes."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import tiny_cks

from modeling_cks import sticker_index
from modeling_cks.sticker_index import StickerIndex, features_fingerprint

ROOT = Path(__file__).resolve().parents[2]
SIZE = 12


def vectors(count, seed=0):
    """Clustered, of many lengths, as features are."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(8, SIZE))
    found = centres[draw.integers(8, size=count)] + 0.4 * draw.normal(size=(count, SIZE))
    return (found * draw.uniform(0.5, 3, (count, 1))).astype(np.float32)


def queries(count, seed=5):
    return torch.from_numpy(vectors(count, seed)) + 0.3


def names(count, start=0):
    return [f"s{number}" for number in range(start, start + count)]


class Twin:
    """Stickers in a dict, in the order in which they were added, compared one by one."""

    def __init__(self):
        self.held = {}

    def search(self, query, count, packs=None):
        query = query / query.norm()
        similar = [
            (-float(torch.from_numpy(v) @ query / np.linalg.norm(v)), place, name)
            for place, (name, (v, _, pack)) in enumerate(self.held.items())
            if packs is None or pack in packs
        ]
        return [(name, -negative) for negative, _, name in sorted(similar)[:count]]


def found_by(index, query, count, packs=None):
    similar, rows = index.search(query[None], count, packs)
    return list(zip(index.take(rows[0]).names, similar[0].tolist(), strict=True))


def same(found, wanted):
    np.testing.assert_allclose([s for _, s in found], [s for _, s in wanted], atol=1e-5)
    # Where similarities are apart, the names are the same too.
    assert len({name for name, _ in found}) == len(found)
    for (name, similar), (other, _) in zip(found, wanted, strict=True):
        near = [each for each, value in wanted if abs(value - similar) < 1e-5]
        assert name == other or name in near


@pytest.mark.parametrize("exact_below", [10_000, 20])
def test_random_changes_against_the_twin(tmp_path, monkeypatch, exact_below):
    monkeypatch.setattr(sticker_index, "_SMALL_SEGMENT", 30)
    monkeypatch.setattr(sticker_index, "_ROWS_A_PASS", 64)
    draw = np.random.default_rng(0)
    index = StickerIndex.create(tmp_path / "index", SIZE, exact_below=exact_below, recall=1.0)
    twin, made = Twin(), 0
    for step in range(60):
        kind = draw.choice(["add", "add", "remove", "optimize", "reopen"])
        if kind == "add":
            count = int(draw.integers(1, 40))
            packs = [str(draw.choice(["a", "b", ""])) for _ in range(count)]
            captions = [None if draw.random() < 0.3 else f"c{n}" for n in range(count)]
            embeds = vectors(count, seed=step)
            index.add(names(count, made), embeds, captions, packs)
            twin.held.update(
                zip(names(count, made), zip(embeds, captions, packs, strict=True), strict=True)
            )
            made += count
        elif kind == "remove" and len(twin.held) > 5:
            gone = [str(each) for each in draw.choice(list(twin.held), 3, replace=False)]
            index.remove(gone)
            for name in gone:
                del twin.held[name]
        elif kind == "optimize":
            index.optimize()
        elif kind == "reopen":
            index = StickerIndex.open(tmp_path / "index")
        assert len(index) == len(twin.held)
        assert index.names() == list(twin.held)
        assert index.packs == sorted({pack for _, _, pack in twin.held.values()})
        if twin.held:
            for query in queries(2, seed=1000 + step):
                same(found_by(index, query, 7), twin.search(query, 7))
                same(found_by(index, query, 7, index.packs[:1]),
                     twin.search(query, 7, index.packs[:1]))  # fmt: skip
    assert made > 300
    some = list(twin.held)[9:3:-2]
    assert index.get(some).names == some
    assert np.array_equal(index.get(some).embeds, [twin.held[name][0] for name in some])
    (found,) = index.nearest(queries(1), 9)
    for name, caption, embed in zip(found.names, found.captions, found.embeds, strict=True):
        v, wanted, _ = twin.held[name]
        assert np.array_equal(embed.numpy(), v) and caption == wanted


@pytest.fixture
def large(tmp_path):
    """2,000 stickers, of which 1,900 are in an inverted file; the last 30 were removed."""
    index = StickerIndex.create(tmp_path / "index", SIZE, exact_below=500)
    packs = ["small"] * 3 + ["large"] * 1897
    index.add(names(1900), vectors(1900), pack=packs)
    index.optimize()
    index.add(names(100, 1900), vectors(100, seed=1), pack="small")
    index.remove(names(30, 1970))
    return index


def test_an_optimised_index_keeps_its_recall_and_answers_exactly(large):
    entry = large._state.manifest["segments"][0]
    assert entry["probes"] and entry["recall"] >= 0.99
    assert large._state.segments[0].faiss.ntotal == 1900
    twin = Twin()
    kept = large.take(range(len(large)))
    for name, v in zip(kept.names, kept.embeds.numpy(), strict=True):
        twin.held[name] = (v, None, "")
    hits = 0
    for query in queries(50):
        found, wanted = found_by(large, query, 10), twin.search(query, 10)
        hits += len({name for name, _ in found} & {name for name, _ in wanted})
        for name, similar in found:
            v = torch.from_numpy(twin.held[name][0])
            assert similar == pytest.approx(float(v @ query / v.norm() / query.norm()), abs=1e-5)
    assert hits >= 0.98 * 500
    # Several queries at once are each as alone.
    together = large.search(queries(5), 10)
    for row, query in enumerate(queries(5)):
        alone = large.search(query[None], 10)
        torch.testing.assert_close(together[0][row], alone[0][0], atol=1e-6, rtol=0)
        assert torch.equal(together[1][row], alone[1][0])


def test_a_filter_to_few_gives_all_of_them(large):
    for query in queries(5):
        found = [name for name, _ in found_by(large, query, 100, ["small"])]
        assert sorted(found) == sorted(names(3) + names(70, 1900))
    assert len(found_by(large, queries(1)[0], 1895, ["large"])) == 1895
    assert len(found_by(large, queries(1)[0], 5000)) == len(large) == 1970


def test_a_filter_to_many_keeps_the_recall(tmp_path):
    index = StickerIndex.create(tmp_path / "index", SIZE, exact_below=200)
    index.add(names(3000), vectors(3000), pack=["many", "few", "few", "few"] * 750)
    index.optimize()
    looked, twin = [], Twin()
    embeds = vectors(3000)
    twin.held = {f"s{n}": (embeds[n], None, "many") for n in range(0, 3000, 4)}
    hits = 0
    for query in queries(50):
        found, wanted = found_by(index, query, 10, ["many"]), twin.search(query, 10)
        hits += len({name for name, _ in found} & {name for name, _ in wanted})
        looked.append(len(found))
    assert set(looked) == {10} and hits >= 0.98 * 500


def test_removed_ones_are_not_found_and_optimising_forgets_them(large):
    gone = found_by(large, queries(1)[0], 20)
    large.remove([name for name, _ in gone[:10]])
    assert found_by(large, queries(1)[0], 10) == gone[10:]
    size = sum(path.stat().st_size for path in large.folder.rglob("embeds.npy"))
    lost = large.names()[100:900]
    large.remove(lost)
    assert large.needs_optimizing is False  # fewer than a small segment has rows
    held = large.names()
    assert not set(held) & set(lost)
    large.optimize()
    assert large.names() == held and len(large._state.removed) == 0
    assert sum(path.stat().st_size for path in large.folder.rglob("embeds.npy")) < size
    large.add(lost[:1], vectors(1))  # the name is free again
    assert large.missing([lost[0], "new"]) == ["new"]


def test_columns_of_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(sticker_index, "_ROWS_A_PASS", 64)
    index = StickerIndex.create(tmp_path / "index", SIZE)
    index.add(names(500), vectors(500), [f"c{n}" if n % 3 else None for n in range(500)])
    index.optimize()
    assert index._state.segments[0].stickers["name"].num_chunks == 8
    places = np.random.default_rng(0).permutation(500)
    for few in (0, 1000):
        monkeypatch.setattr(sticker_index, "_FEW_VALUES", few)
        found = index.take(places)
        assert found.names == [f"s{n}" for n in places]
        assert found.captions == [f"c{n}" if n % 3 else None for n in places]


def test_equal_similarities_come_in_the_order_of_adding(tmp_path):
    index = StickerIndex.create(tmp_path / "index", 2)
    index.add(list("abcdefgh"), np.array([[1, 0], [0, 1]] * 4, dtype=np.float32))
    assert [name for name, _ in found_by(index, torch.tensor([1.0, 0.0]), 3)] == ["a", "c", "e"]
    similar = torch.tensor([[3.0, 1.0, 3.0, 2.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    for count in (1, 2, 3):
        wanted = similar[0].sort(descending=True, stable=True).indices[:count]
        assert torch.equal(sticker_index._first_best(similar, count)[0], wanted)


def test_needs_optimizing_says_when(tmp_path, monkeypatch):
    monkeypatch.setattr(sticker_index, "_SMALL_SEGMENT", 10)
    index = StickerIndex.create(tmp_path / "index", SIZE, exact_below=50)
    index.add(names(50), vectors(50))
    assert not index.needs_optimizing
    index.add(names(5, 50), vectors(5, 1))
    assert index.needs_optimizing
    index.optimize()
    assert not index.needs_optimizing
    index.remove(names(12))
    assert index.needs_optimizing


def test_stages_are_told(tmp_path):
    index = StickerIndex.create(tmp_path / "index", SIZE, exact_below=50)
    index.add(names(200), vectors(200))
    told = []
    index.optimize(queries(20), lambda *stage: told.append(stage))
    assert [stage for stage, _, _ in told][0] == "training" and told[-1] == ("tuning", 1, 1)
    assert ("adding", 200, 200) in told


class KilledError(Exception):
    pass


@pytest.mark.parametrize("moment", ["_write_rows", "_build", "_write_json"])
@pytest.mark.parametrize("change", ["add", "optimize", "remove"])
def test_a_killed_writer_leaves_what_was(large, monkeypatch, moment, change):
    def killed(*_):
        raise KilledError

    before = large.names()
    with monkeypatch.context() as broken:
        broken.setattr(sticker_index, moment, killed)
        changes = {
            "add": lambda: large.add(["new"], vectors(1)),
            "optimize": large.optimize,
            "remove": lambda: large.remove(["s1"]),
        }
        touched = {"add": ("_write_rows", "_write_json"), "remove": ("_write_json",)}
        if moment in touched.get(change, ("_write_rows", "_build", "_write_json")):
            with pytest.raises(KilledError):
                changes[change]()
        else:
            changes[change]()
            return
    again = StickerIndex.open(large.folder)
    assert again.names() == before
    same(found_by(again, queries(1)[0], 9), found_by(large, queries(1)[0], 9))
    again.add(["after"], vectors(1))
    left = {path.name for path in large.folder.iterdir()}
    manifest = json.loads((large.folder / "manifest.json").read_text())
    named = {f"segment-{entry['number']}" for entry in manifest["segments"]}
    assert left == named | {"manifest.json", "lock"} and manifest["removed"] is None


def test_threads_search_while_one_writes(tmp_path):
    index = StickerIndex.create(tmp_path / "index", SIZE, exact_below=100)
    index.add(names(300), vectors(300))
    index.optimize()
    problems, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                (found,) = index.nearest(queries(1), 20)
                assert len(found) == len(set(found.names)) == 20
                similar = torch.nn.functional.cosine_similarity(found.embeds, queries(1))
                assert (similar.diff() <= 1e-6).all()
            except Exception as error:
                problems.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(15):
        index.add(names(20, 300 + 20 * number), vectors(20, number))
        index.remove(names(5, 10 * number))
        if number % 5 == 4:
            index.optimize()
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert len(index) == 300 + 15 * 15


READER = """
    import sys, numpy as np, torch
    from modeling_cks.sticker_index import StickerIndex
    index = StickerIndex.open(sys.argv[1])
    print("ready", flush=True)
    query, seen = torch.ones(1, 12), 0
    while True:
        similar, rows = index.search(query, 10)
        found = index.take(rows[0])
        # A batch is there as a whole or not at all, and each name with its own features.
        assert len(index) % 50 == 0, len(index)
        for name, embed in zip(found.names, found.embeds):
            assert float(embed[0]) == float(name[1:]) + 1, (name, embed)
        seen += index.refresh()
        if len(index) == 1000:
            break
    print(seen)
"""
WRITER = """
    import sys, numpy as np
    from modeling_cks.sticker_index import StickerIndex
    index, start = StickerIndex.open(sys.argv[1]), int(sys.argv[2])
    for first in range(start, start + 450, 50):
        embeds = np.random.default_rng(first).normal(size=(50, 12)).astype(np.float32)
        embeds[:, 0] = np.arange(first, first + 50) + 1
        index.add([f"n{number}" for number in range(first, first + 50)], embeds)
        if first % 200 == 0:
            index.optimize()
"""


def run(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_processes_read_while_two_write(tmp_path):
    index = StickerIndex.create(tmp_path / "index", SIZE, exact_below=100)
    embeds = vectors(100)
    embeds[:, 0] = np.arange(100) + 1
    index.add([f"n{number}" for number in range(100)], embeds)
    reader = run(READER, index.folder)
    assert reader.stdout.readline() == "ready\n"
    writers = [run(WRITER, index.folder, start) for start in (100, 550)]
    for process in [*writers, reader]:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert int(output) > 1
    index.refresh()
    assert len(index) == 1000 and sorted(index.names()) == sorted(f"n{n}" for n in range(1000))


def test_a_second_writer_waits_and_then_says_so(tmp_path, monkeypatch):
    from filelock import FileLock

    index = StickerIndex.create(tmp_path / "index", SIZE)
    monkeypatch.setattr(sticker_index, "_LOCK_SECONDS", 0.1)
    with FileLock(tmp_path / "index" / "lock"), pytest.raises(ValueError, match="another process"):
        index.add(["a"], vectors(1))
    index.add(["a"], vectors(1))


def test_bad_input_is_named(tmp_path):
    index = StickerIndex.create(tmp_path / "index", SIZE)
    index.add(["a", "b"], vectors(2), pack="p")
    before = index.names()
    bad = vectors(2)
    bad[1, 3] = np.nan
    for match, call in {
        "'a' is in the index": lambda: index.add(["c", "a"], vectors(2)),
        "'c' is added twice": lambda: index.add(["c", "c"], vectors(2)),
        "features of 'd' are not finite": lambda: index.add(["c", "d"], bad),
        "features of 'c' are not finite or": lambda: index.add(["c"], np.zeros((1, SIZE))),
        r"features of shape \(1, 3\)": lambda: index.add(["c"], np.ones((1, 3))),
        "1 captions": lambda: index.add(["c", "d"], vectors(2), captions=["x"]),
        "no sticker 'z'": lambda: index.remove(["a", "z"]),
        "no sticker 'y'": lambda: index.get(["a", "y"]),
        r"queries of shape \(12,\)": lambda: index.search(torch.ones(SIZE)),
        "query 0 is not finite": lambda: index.search(torch.full((1, SIZE), torch.inf)),
        "count must be": lambda: index.search(queries(1), 0),
        "no pack 'q'": lambda: index.search(queries(1), 1, ["p", "q"]),
        "is there already": lambda: StickerIndex.create(tmp_path / "index", SIZE),
        "size >= 1": lambda: StickerIndex.create(tmp_path / "new", 0),
        "holds no index": lambda: StickerIndex.open(tmp_path),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
    assert index.names() == before
    empty = StickerIndex.create(tmp_path / "empty", SIZE)
    assert empty.search(queries(3))[1].shape == (3, 0)
    with pytest.raises(ValueError, match="no sticker"):
        empty.nearest(queries(1))
    index.optimize()
    index.remove(["a", "b"])
    index.optimize()
    assert len(index) == 0 and index.packs == []


@pytest.mark.parametrize(
    "file",
    ["manifest.json", "embeds.npy", "stickers.arrow", "nearest.faiss", "axes.npy", "removed-*.npy"],
)
def test_a_damaged_folder_is_an_error_that_names_it(large, file):
    (path, *_) = sorted(large.folder.rglob(file))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="manifest.json|segment-|nearest.faiss|axes.npy|removed-"):
        StickerIndex.open(large.folder)
    path.unlink()
    with pytest.raises(ValueError, match="damaged|holds no index"):
        StickerIndex.open(large.folder)
    shutil.rmtree(large.folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda held: held.pop("next"), "manifest.json: lacks next"),
        (lambda held: held["segments"][0].pop("rows"), "manifest.json: lacks rows"),
        (lambda held: held.update(version=1), "not the manifest of an index of stickers of this v"),
    ],
)
def test_a_manifest_that_lacks_something_is_named(large, change, says):
    path = large.folder / "manifest.json"
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=says):
        StickerIndex.open(large.folder)


def test_axes_of_another_segment_are_named(large):
    (path,) = large.folder.rglob("axes.npy")
    np.save(path, np.load(path)[:-1])
    with pytest.raises(
        ValueError, match="segment-.*: a damaged segment, of 1900 rows along 12 axes"
    ):
        StickerIndex.open(large.folder)


def test_rows_removed_that_are_not_there_are_named(large):
    (path,) = large.folder.glob("removed-*.npy")
    np.save(path, np.array([5, 2000]))
    with pytest.raises(ValueError, match="removed-.*: not rows of this index"):
        StickerIndex.open(large.folder)


def test_what_does_not_change_stays_open(large):
    first, last = large._state.segments
    reader = StickerIndex.open(large.folder)
    held = reader._state.segments[0]
    large.add(["new"], vectors(1))
    assert large._state.segments[0] is first and large._state.segments[1] is not last
    assert reader.refresh() and reader._state.segments[0] is held
    assert reader.missing(["new"]) == []
    # Another index in its place is none of what is open, though its segments have the same numbers.
    folder = large.folder
    shutil.rmtree(folder)
    again = StickerIndex.create(folder, SIZE, exact_below=500)
    again.add(names(1900), vectors(1900, seed=7))
    again.optimize()
    assert again._state.segments[0].entry["number"] == held.entry["number"]
    assert reader.refresh() and reader._state.segments[0] is not held
    same(found_by(reader, queries(1)[0], 5), found_by(again, queries(1)[0], 5))


def flat(count, seed, axes=6, size=160, spread=0.02):
    """Features of many numbers that lie about a mean and vary along few axes."""
    draw = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(98).normal(size=(size, size)))
    found = draw.normal(size=(count, size)) * np.where(np.arange(size) < axes, 1, spread)
    found[:, -1] += 2  # the mean, across what varies
    return (found @ turn.T).astype(np.float32)


def test_as_few_axes_are_kept_as_tell_the_nearest(tmp_path):
    kept, spreads = {}, {"few": (6, 0.02), "many": (120, 0.02), "all": (160, 1)}
    for name, (axes, spread) in spreads.items():
        index = StickerIndex.create(tmp_path / name, 160, exact_below=500)
        embeds = flat(6000, 0, axes, spread=spread)
        index.add(names(6000), embeds)
        # Dialogues lie elsewhere than stickers: off their mean, and not about zero.
        wanted = torch.from_numpy(flat(40, 1, axes, spread=spread)) - 3 * embeds.mean(0) + 0.2
        index.optimize(wanted)
        (segment,) = index._state.segments
        kept[name] = len(segment.axes)
        np.testing.assert_allclose(segment.axes @ segment.axes.T, np.eye(kept[name]), atol=1e-4)
        assert segment.entry["recall"] >= 0.99
        similar = torch.nn.functional.normalize(wanted) @ torch.from_numpy(
            embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
        ).T  # fmt: skip
        best = similar.topk(10, dim=1)
        found, rows = index.search(wanted, 10)
        hits = [
            len(set(a.tolist()) & set(b.tolist())) for a, b in zip(rows, best.indices, strict=True)
        ]
        assert np.mean(hits) >= 9.85
        torch.testing.assert_close(found, similar.gather(1, rows), atol=1e-6, rtol=0)
    assert kept == {"few": 64, "many": 128, "all": 160}


KILLED = """
    import sys, numpy as np
    from modeling_cks.sticker_index import StickerIndex
    index = StickerIndex.open(sys.argv[1])
    for first in range(len(index), 100_000, 10):
        index.add([f"n{number}" for number in range(first, first + 10)],
                  np.full((10, 12), first + 1.0, dtype=np.float32))
        if first % 50 == 0:
            index.optimize()
        print(len(index), flush=True)
"""


def test_killed_outright_it_holds_whole_additions(tmp_path):
    folder = tmp_path / "index"
    StickerIndex.create(folder, SIZE, exact_below=20)
    held = 0
    for additions, seconds in ((7, 0.003), (4, 0.011)):
        writer = run(KILLED, folder)
        told = [int(writer.stdout.readline()) for _ in range(additions)]
        assert told == list(range(held + 10, held + 10 * additions + 1, 10))
        time.sleep(seconds)
        writer.kill()
        writer.communicate()
        index = StickerIndex.open(folder)
        assert len(index) % 10 == 0 and len(index) >= told[-1]
        held = len(index)
        assert index.names() == [f"n{number}" for number in range(held)]
        embeds = index.take(range(held)).embeds[:, 0]
        assert embeds.tolist() == [number // 10 * 10 + 1 for number in range(held)]
    index.add(["after"], vectors(1))  # a dead writer's lock holds nobody up


def test_another_models_features_are_refused(tmp_path):
    model, _ = tiny_cks(tmp_path / "a")
    other, _ = tiny_cks(tmp_path / "b", seed=1)
    assert features_fingerprint(model) != features_fingerprint(other)
    index = StickerIndex.create(tmp_path / "index", 24, model)
    again = StickerIndex.open(tmp_path / "index")
    again.check_model(model)
    again.check_model(model)
    with pytest.raises(ValueError, match="another model"):
        again.check_model(other)
    StickerIndex.create(tmp_path / "any", 24).check_model(other)
    assert len(index) == 0
