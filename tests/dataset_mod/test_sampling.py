# SPDX-License-Identifier: Apache-2.0
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import stats

from dataset_mod.sampling import NegativeSampler, draw_candidates

IDS = [f"{i:03d}" for i in range(30)]
# Uneven on purpose: 12 of emotion 0, 6 of 1, 4 of 5, 3 of 6, and 5 without one; mixed up.
EMOTIONS = [0, 1, 0, -1, 5, 0, 1, 6, 0, -1, 0, 5, 1, 0, 0, -1, 6, 1, 0, 5, 0, 1, -1, 0, 0, 6, 1, 5]
EMOTIONS += [0, -1]
EMOTION_OF = dict(zip(IDS, EMOTIONS, strict=True))


def allowed_by_hand(positive):
    """The rule, said slowly."""
    emotion = EMOTION_OF[positive]
    if emotion != -1:
        differing = [i for i in IDS if EMOTION_OF[i] not in (-1, emotion)]
        if differing:
            return differing
    return [i for i in IDS if i != positive]


@pytest.fixture
def sampler():
    return NegativeSampler(IDS, EMOTIONS, seed=3)


@pytest.mark.parametrize("positive", ["000", "001", "004", "007", "003", "029"])
@pytest.mark.parametrize("varied", ["sample", "epoch"])
def test_negatives_are_uniform_over_exactly_the_allowed(sampler, positive, varied):
    allowed = allowed_by_hand(positive)
    draws = 400 * len(allowed)
    if varied == "sample":
        drawn = sampler.draw_many(range(draws), [positive] * draws, epoch=1)
    else:
        drawn = [sampler.draw(5, positive, epoch) for epoch in range(draws)]
    counts = Counter(drawn)
    assert set(counts) == set(allowed)
    assert stats.chisquare([counts[i] for i in allowed]).pvalue > 1e-3


def test_draws_of_neighbouring_samples_and_epochs_are_independent(sampler):
    allowed = allowed_by_hand("007")
    number = {sticker: i for i, sticker in enumerate(allowed)}
    first, second = (sampler.draw_many(range(20_000), ["007"] * 20_000, epoch) for epoch in (0, 1))
    for left, right in ((first, second), (first[:-1], first[1:])):
        table = np.zeros((len(allowed), len(allowed)))
        for a, b in zip(left, right, strict=True):
            table[number[a], number[b]] += 1
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_a_negative_never_shares_the_emotion_and_is_never_unlabelled(sampler):
    positives = [i for i in IDS if EMOTION_OF[i] >= 0] * 200
    for epoch in range(3):
        drawn = sampler.draw_many(range(len(positives)), positives, epoch)
        for positive, negative in zip(positives, drawn, strict=True):
            assert EMOTION_OF[negative] not in (-1, EMOTION_OF[positive])


def test_workers_and_order_change_nothing(sampler):
    rng = np.random.default_rng(0)
    positives = rng.choice(IDS, 1000).tolist()
    whole = sampler.draw_many(range(1000), positives, epoch=4)
    for workers in (1, 3, 8):
        shards = [rng.permutation(np.arange(w, 1000, workers)) for w in range(workers)]
        found = {}

        def work(shard, found=found):
            own = NegativeSampler(IDS, EMOTIONS, seed=3)  # each worker has its own copy
            for i in shard:
                found[int(i)] = own.draw(int(i), positives[i], 4)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, shards))
        assert [found[i] for i in range(1000)] == whole


def test_epochs_and_seeds_draw_afresh(sampler):
    positives = ["000"] * 500
    one = sampler.draw_many(range(500), positives, 0)
    assert one == sampler.draw_many(range(500), positives, 0)
    for other in (
        sampler.draw_many(range(500), positives, 1),
        NegativeSampler(IDS, EMOTIONS, seed=4).draw_many(range(500), positives, 0),
    ):
        same = np.mean([a == b for a, b in zip(one, other, strict=True)])
        assert same < 0.2  # 1/13 by chance


def test_draws_are_pinned():
    """A resumed run of another day must draw the same: the hash is part of the format."""
    sampler = NegativeSampler(IDS, EMOTIONS, seed=3)
    assert sampler.draw_many(range(6), ["000"] * 6, 0) == PINNED_NEGATIVES
    assert draw_candidates(IDS, "000", 7, seed=1, size=5) == PINNED_CANDIDATES


PINNED_NEGATIVES = ["006", "025", "027", "004", "006", "019"]
PINNED_CANDIDATES = ["000", "001", "009", "010", "024"]


@pytest.mark.parametrize("emotions", [[2, 2, 2, 2], [-1, -1, -1, -1], [2, 2, -1, -1]])
def test_where_none_is_known_to_differ_any_other_sticker_serves(emotions):
    ids = ["000", "001", "002", "003"]
    sampler = NegativeSampler(ids, emotions, seed=0)
    for positive in ids:
        drawn = {sampler.draw(i, positive, 0) for i in range(200)}
        assert drawn == set(ids) - {positive}


def test_an_unlabelled_positive_takes_any_other(sampler):
    assert set(sampler.draw_many(range(3000), ["003"] * 3000, 0)) == set(IDS) - {"003"}


def test_an_epoch_of_the_whole_release_takes_a_second():
    ids = [f"{i:03d}" for i in range(307)]
    sampler = NegativeSampler(ids, [i % 48 for i in range(307)], seed=0)
    positives = [ids[i % 307] for i in range(212_248)]
    start = time.perf_counter()
    drawn = sampler.draw_many(range(212_248), positives, 0)
    assert time.perf_counter() - start < 3  # about 0.1 s; a slow machine may be loaded
    assert len(drawn) == 212_248


def test_bad_inventories_are_refused(sampler):
    with pytest.raises(ValueError, match="2 stickers but 1 emotions"):
        NegativeSampler(["000", "001"], [0], 0)
    with pytest.raises(ValueError, match="at least two"):
        NegativeSampler(["000"], [0], 0)
    with pytest.raises(ValueError, match="twice"):
        NegativeSampler(["000", "000"], [0, 1], 0)
    with pytest.raises(ValueError, match="'999' is not in the inventory"):
        sampler.draw(0, "999", 0)
    with pytest.raises(ValueError, match="2 samples but 1 positives"):
        sampler.draw_many([0, 1], ["000"], 0)


def test_candidates_are_sorted_distinct_and_hold_the_answer():
    for index in range(300):
        found = draw_candidates(IDS, IDS[index % 30], index, seed=1)
        assert found == sorted(set(found)) and len(found) == 11
        assert IDS[index % 30] in found


def test_candidates_are_uniform():
    draws = 6000
    counts = Counter(i for k in range(draws) for i in draw_candidates(IDS, "004", k, 0, size=6))
    assert counts.pop("004") == draws
    assert set(counts) == set(IDS) - {"004"}
    # Inclusion without replacement: 5 of 29 each, scaled to the variance of one inclusion.
    share = 5 / 29
    z = (np.array(list(counts.values())) - draws * share) / np.sqrt(draws * share * (1 - share))
    assert stats.kstest(z, "norm").pvalue > 1e-3


def test_candidates_depend_on_sample_and_seed_and_not_on_the_order():
    one = draw_candidates(IDS, "004", 0, seed=0)
    assert one == draw_candidates(IDS[::-1], "004", 0, seed=0)
    assert one != draw_candidates(IDS, "004", 1, seed=0)
    assert one != draw_candidates(IDS, "004", 0, seed=1)


def test_candidates_of_too_small_an_inventory_are_refused():
    assert draw_candidates(IDS[:11], "004", 0, 0) == IDS[:11]
    with pytest.raises(ValueError, match="10 stickers are too few for 11"):
        draw_candidates(IDS[:10], "004", 0, 0)
    with pytest.raises(ValueError, match="'999' is not in the inventory"):
        draw_candidates(IDS, "999", 0, 0)
