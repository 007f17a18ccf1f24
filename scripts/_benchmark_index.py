# SPDX-License-Identifier: Apache-2.0
"""Millions of stickers: building and searching the index, beside exact search and other kinds."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _benchmark import lines, markdown
from _cli import peak_memory_mib

TITLE = "Millions of stickers"
_SIZE = 768
_ROWS_A_PASS = 20_000
_TRUTH_ROWS = 65_536
_RECALL = 0.99
_COUNT = 100
_H_AXES = 64
# How often stickers are drawn, each time lying differently to the dialogues.
_DRAWS = 5
# Of the stickers whose features were measured each face comes in five styles.
_ALIKE = 5
# Axes of the stickers' features, by falling variance, are told of in bands: these are the ends.
_ENDS = (2, 4, 8, 16, 32, 64, 128, 256, _SIZE)
# How features of a trained model lie: v of 330 emoji stickers and h~_T of 300 dialogues, as
# `lie_of` measures it. `--index-model` and `--index-data` measure them anew.
_LIE = {
    "stickers": 330,
    "dialogues": 300,
    "v_dimensions": 16.3,
    "v_mean": 0.616,
    "h_dimensions": 3.57,
    "h_mean": 0.855,
    "means_cosine": 0.17,
    "v_nearest": 0.869,
    "v_median": 0.365,
    "h_to_v_best": 0.381,
    "h_to_v_10th": 0.282,
    "h_to_v_median": 0.0867,
    "norm": 12.4,
    "norm_spread": 1.3,
    "v_bands": [0.2565, 0.147, 0.194, 0.1765, 0.1376, 0.0686, 0.019, 0.0009, 0.0],
    "v_mean_bands": [0.1391, 0.0526, 0.1618, 0.0517, 0.2699, 0.2463, 0.0625, 0.0161, 0.0],
    "h_bands": [0.0369, 0.1063, 0.2053, 0.1053, 0.1111, 0.1413, 0.1694, 0.1243, 0.0],
    "h_mean_bands": [0.0067, 0.0203, 0.0688, 0.0849, 0.3339, 0.1832, 0.189, 0.1131, 0.0],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sizes, and the model whose features are imitated."""
    parser.add_argument(
        "--index-rows",
        type=int,
        nargs="+",
        default=[10_000, 30_000, 100_000, 300_000, 1_000_000],
        help="stickers (default: 10000 30000 100000 300000 1000000)",
    )
    parser.add_argument(
        "--index-kinds-at",
        type=int,
        default=100_000,
        help="stickers at which other kinds of index are built too (default: 100000)",
    )
    parser.add_argument(
        "--index-queries", type=int, default=200, help="searches timed (default: 200)"
    )
    parser.add_argument(
        "--index-folder", type=Path, help="where the indexes are built (default: a temporary one)"
    )
    parser.add_argument("--index-model", type=Path, help="trained model whose features to imitate")
    parser.add_argument("--index-data", type=Path, help="its data, made by prepare_mod.py")


def measure(args: argparse.Namespace) -> dict:
    """Build, search and compare at each size."""
    sizes = [1000, 3000] if args.quick else args.index_rows
    count = 20 if args.quick else args.index_queries
    lie = _LIE
    if args.index_model is not None and args.index_data is not None:
        lie = lie_of(args.index_model, args.index_data)
    kinds_at = sizes[0] if args.quick else args.index_kinds_at
    rows, kinds, draws = [], [], []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=args.index_folder) as folder:
            row, simulation, index, truth = _at(args, Path(folder), lie, size, count, args.seed)
            rows.append(row)
            if size == kinds_at:
                draws.append(row)
                kinds = _kinds(index, simulation.queries(count), truth, quick=args.quick)
    first = args.seed + len(draws)
    for seed in range(first, args.seed + (2 if args.quick else _DRAWS)):
        with tempfile.TemporaryDirectory(dir=args.index_folder) as folder:
            draws.append(_at(args, Path(folder), lie, kinds_at, count, seed)[0])
    return {
        "rows": rows,
        "kinds": kinds,
        "draws": draws,
        "kinds_rows": kinds_at,
        "size": _SIZE,
        "count": _COUNT,
        "lie": lie,
        "simulated": Simulation(lie, lie["stickers"], args.seed).measured(lie["dialogues"]),
        "peak_memory_mib": peak_memory_mib(),
    }


def _at(args: argparse.Namespace, folder: Path, lie: dict, size: int, count: int, seed: int):
    """Build and search one index."""
    simulation = Simulation(lie, size, seed)
    index, row = _build(folder, simulation, 500 if args.quick else None)
    queries = simulation.queries(count)
    truth = _truth(index, queries)
    row.update(_search(folder, queries, truth, args.repeats))
    return {"rows": size, "seed": seed, **row}, simulation, index, truth


class Simulation:
    """Stickers and dialogues whose features lie as those of a trained model do.

    Features v have a common mean, vary along few axes, and gather: many stickers are the same face
    in another style. Dialogues' h~_T lie about a mean of their own, off the stickers, and vary
    along fewer axes, which are not the stickers': of each mean and each spread as much lies along
    the stickers' first two axes, the next two, the next four and so on as was measured.

    Args:
        lie: what `lie_of` measured.
        rows: how many stickers, of which about five are alike each time.
        seed: of all that is drawn.
    """

    def __init__(self, lie: dict, rows: int, seed: int):
        self.lie, self.rows, self.seed = lie, rows, seed
        draw = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(draw.normal(size=(_SIZE, _SIZE)))
        varied = 1 - lie["v_mean"] ** 2
        widths = np.diff((0, *_ENDS))
        self.v_axes = _float(np.repeat(np.sqrt(varied * np.divide(lie["v_bands"], widths)), widths))
        mean = _direction(draw, lie["v_mean_bands"])
        # The dialogues' mean: at its angle to the stickers', the rest by bands.
        across = _direction(draw, lie["h_mean_bands"])
        across -= across @ mean * mean
        across /= np.linalg.norm(across)
        cosine = lie["means_cosine"]
        h_mean = lie["h_mean"] * (cosine * mean + np.sqrt(1 - cosine**2) * across)
        axes = np.stack([_direction(draw, lie["h_bands"]) for _ in range(_H_AXES)])
        axes, _ = np.linalg.qr(axes.T)
        spread = np.sqrt(1 - lie["h_mean"] ** 2) * _spectrum(lie["h_dimensions"], _H_AXES)
        self.turn = _float(turn)
        self.v_mean, self.h_mean = _float(lie["v_mean"] * mean), _float(h_mean)
        self.h_axes = _float(axes.T * spread[:, None])
        # Of what varies, the share that stickers of one centre have in common: with it the nearest
        # has the cosine that was measured.
        self.common = np.clip((lie["v_nearest"] - lie["v_mean"] ** 2) / varied, 0.05, 0.95)

    def blocks(self):
        """Yield v, (n, 768) at a time."""
        for first in range(0, self.rows, _ROWS_A_PASS):
            draw = np.random.default_rng((self.seed, first))
            count = min(_ROWS_A_PASS, self.rows - first)
            centres = draw.standard_normal((max(count // _ALIKE, 1), _SIZE), dtype=np.float32)
            centres = centres[draw.integers(len(centres), size=count)]
            own = draw.standard_normal((count, _SIZE), dtype=np.float32)
            varied = (np.sqrt(self.common) * centres + np.sqrt(1 - self.common) * own) * self.v_axes
            features = (self.v_mean + varied) @ self.turn
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            norms = draw.normal(self.lie["norm"], self.lie["norm_spread"], (count, 1)).clip(1)
            yield _float(features * norms)

    def queries(self, count: int) -> np.ndarray:
        """Draw h~_T of dialogues, (count, 768)."""
        draw = np.random.default_rng((self.seed, 1, count))
        own = draw.standard_normal((count, _H_AXES), dtype=np.float32)
        return (self.h_mean + own @ self.h_axes) @ self.turn

    def measured(self, dialogues: int) -> dict:
        """Measure of what is drawn what was measured of the model."""
        return _lie(np.concatenate(list(self.blocks())), self.queries(dialogues))


def _float(values) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)


def _direction(draw: np.random.Generator, bands: list[float]) -> np.ndarray:
    """Draw a direction of which such shares lie within the bands of axes."""
    found = draw.normal(size=_SIZE)
    for first, end, share in zip((0, *_ENDS), _ENDS, bands, strict=False):
        found[first:end] *= np.sqrt(share) / np.linalg.norm(found[first:end])
    return found / np.linalg.norm(found)


def _spectrum(dimensions: float, axes: int) -> np.ndarray:
    """Give deviations along axes that fall by a power law, in so many effective dimensions."""
    places = np.arange(1, axes + 1)
    low, high = 0.0, 6.0
    for _ in range(60):
        power = (low + high) / 2
        shares = places**-power / (places**-power).sum()
        low, high = (power, high) if 1 / (shares**2).sum() > dimensions else (low, power)
    return np.sqrt(shares)


def lie_of(model: Path, data: Path) -> dict:
    """Measure how the features of a trained model lie, over its data's stickers and dialogues."""
    from _rankers import load_ranker

    from dataset_mod.prepared import load_prepared

    for path in (model, data):
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
    tables = load_prepared(data)
    ranker, _, _ = load_ranker(model, tables, data)
    samples = list(tables.splits["validation"])[:300]
    dialogues = [
        ranker.dialogue_embeds(samples[first : first + 32]).numpy()
        for first in range(0, len(samples), 32)
    ]
    return _lie(ranker.sticker_embeds().cpu().numpy(), np.concatenate(dialogues))


def _lie(stickers: np.ndarray, dialogues: np.ndarray) -> dict:
    norms = np.linalg.norm(stickers, axis=1)
    v = stickers / norms[:, None]
    h = dialogues / np.linalg.norm(dialogues, axis=1, keepdims=True)
    v_mean, h_mean = v.mean(0), h.mean(0)
    among = v[:1000] @ v.T
    among[np.arange(len(among)), np.arange(len(among))] = np.nan
    across = np.sort(h @ v.T, axis=1)[:, ::-1]
    _, _, axes = np.linalg.svd(v - v_mean, full_matrices=False)
    found = {
        "v_dimensions": _dimensions(v),
        "v_mean": np.linalg.norm(v_mean),
        "h_dimensions": _dimensions(h),
        "h_mean": np.linalg.norm(h_mean),
        "means_cosine": v_mean @ h_mean / np.linalg.norm(v_mean) / np.linalg.norm(h_mean),
        "v_nearest": np.nanmax(among, axis=1).mean(),
        "v_median": np.nanmedian(among),
        "h_to_v_best": across[:, 0].mean(),
        "h_to_v_10th": across[:, 9].mean(),
        "h_to_v_median": np.median(across),
        "norm": norms.mean(),
        "norm_spread": norms.std(),
    }
    return {
        "stickers": len(v),
        "dialogues": len(h),
        **{name: float(value) for name, value in found.items()},
        "v_bands": _bands((v - v_mean) @ axes.T, v - v_mean),
        "v_mean_bands": _bands(v_mean @ axes.T, v_mean),
        "h_bands": _bands((h - h_mean) @ axes.T, h - h_mean),
        "h_mean_bands": _bands(h_mean @ axes.T, h_mean),
    }


def _bands(along: np.ndarray, whole: np.ndarray) -> list[float]:
    """Give the shares of a spread or a mean by bands of axes; the last is all that is left."""
    squares = (np.atleast_2d(along) ** 2).sum(0)
    shares = [squares[first:end].sum() for first, end in zip((0, *_ENDS), _ENDS[:-1], strict=False)]
    found = [float(share / (whole**2).sum()) for share in shares]
    return [*found, max(0.0, 1 - sum(found))]


def _dimensions(features: np.ndarray) -> float:
    """Count the effective dimensions: the participation ratio of the covariance."""
    shares = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    return shares.sum() ** 2 / (shares**2).sum()


def _build(folder: Path, simulation: Simulation, exact_below: int | None):
    """Add all stickers, then optimise."""
    from modeling_cks.sticker_index import StickerIndex

    below = {} if exact_below is None else {"exact_below": exact_below}
    index = StickerIndex.create(folder / "index", _SIZE, recall=0.995, **below)
    start, drawn, first = time.perf_counter(), 0.0, 0
    blocks = simulation.blocks()
    while True:
        before = time.perf_counter()
        block = next(blocks, None)
        drawn += time.perf_counter() - before
        if block is None:
            break
        names = [f"{number}" for number in range(first, first + len(block))]
        packs = [f"pack {number // 1000}" for number in range(first, first + len(block))]
        index.add(names, block, ["so happy"] * len(block), packs)
        first += len(block)
    added = time.perf_counter() - start - drawn
    start = time.perf_counter()
    index.optimize(simulation.queries(256))
    (segment,) = index._state.segments
    entry = segment.entry
    files = [path for path in index.folder.rglob("*") if path.is_file()]
    inverted = index.folder / f"segment-{entry['number']}" / "nearest.faiss"
    return index, {
        "axes": None if segment.axes is None else len(segment.axes),
        "lists": None if segment.faiss is None else segment.faiss.nlist,
        "probes": entry["probes"],
        "add_seconds": added,
        "optimize_seconds": time.perf_counter() - start,
        "mib_on_disk": sum(path.stat().st_size for path in files) / 2**20,
        "mib_inverted": inverted.stat().st_size / 2**20 if inverted.exists() else 0.0,
    }


def _truth(index, queries: np.ndarray, count: int = _COUNT) -> np.ndarray:
    """Find the nearest by comparing with all: places (Q, count) in the order of adding."""
    import torch

    wanted = torch.nn.functional.normalize(torch.from_numpy(queries), dim=1)
    (segment,) = index._state.segments
    best = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
    for first in range(0, segment.rows, _TRUTH_ROWS):
        part = torch.from_numpy(np.array(segment.embeds[first : first + _TRUTH_ROWS]))
        similar = wanted @ torch.nn.functional.normalize(part, dim=1).T
        places = torch.arange(first, first + len(part)).expand(len(queries), -1)
        similar, places = torch.cat([best[0], similar], 1), torch.cat([best[1], places], 1)
        kept = similar.topk(min(count, similar.shape[1]), dim=1).indices
        best = similar.gather(1, kept), places.gather(1, kept)
    return best[1].numpy()


def _recall(found: np.ndarray, truth: np.ndarray, count: int) -> float:
    pairs = zip(found[:, :count].tolist(), truth[:, :count].tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / count for a, b in pairs]))


def _search(folder: Path, queries: np.ndarray, truth: np.ndarray, repeats: int) -> dict:
    """Search in a process of its own, as a user opens an index."""
    np.save(folder / "queries.npy", queries)
    command = [sys.executable, __file__, str(folder), str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    rows = np.asarray(found.pop("found"))
    return {**found, "recall_10": _recall(rows, truth, 10), "recall_100": _recall(rows, truth, 100)}


def _searcher(folder: Path, repeats: int) -> dict:
    # What opening imports is not what opening costs.
    import faiss  # noqa: F401
    import psutil
    import pyarrow.compute  # noqa: F401
    import torch

    from modeling_cks.sticker_index import StickerIndex

    process = psutil.Process()
    queries = torch.from_numpy(np.load(folder / "queries.npy"))
    before = process.memory_info().rss
    start = time.perf_counter()
    index = StickerIndex.open(folder / "index")
    opened = time.perf_counter() - start
    after = process.memory_info().rss
    _, first = index.search(queries, _COUNT)
    singles, nearest, filtered, pairs = [], [], [], [index.packs[0]]
    for _ in range(repeats):
        for query in queries[:, None]:
            start = time.perf_counter()
            index.search(query, _COUNT)
            singles.append(time.perf_counter() - start)
        for query in queries[:20, None]:
            start = time.perf_counter()
            index.nearest(query, _COUNT)
            nearest.append(time.perf_counter() - start)
            start = time.perf_counter()
            index.search(query, _COUNT, pairs)
            filtered.append(time.perf_counter() - start)
    start = time.perf_counter()
    index.search(queries, _COUNT)
    together = time.perf_counter() - start
    return {
        "open_ms": 1000 * opened,
        "open_mib": (after - before) / 2**20,
        "resident_mib": (process.memory_info().rss - before) / 2**20,
        "p50_ms": 1000 * float(np.percentile(singles, 50)),
        "p95_ms": 1000 * float(np.percentile(singles, 95)),
        "nearest_ms": 1000 * float(np.median(nearest)),
        "one_pack_ms": 1000 * float(np.median(filtered)),
        "batched_ms": 1000 * together / len(queries),
        "threads": torch.get_num_threads(),
        "found": first.tolist(),
    }


def _kinds(index, queries: np.ndarray, truth: np.ndarray, quick: bool) -> list[dict]:
    """Build other kinds over the same stickers, each tuned to the same recall."""
    import faiss

    (segment,) = index._state.segments
    stickers = segment.directions(slice(None))
    wanted = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    fine = 2 ** round(np.log2(4 * np.sqrt(len(stickers))))
    coarse = 2 ** round(np.log2(np.sqrt(len(stickers))))
    axes = np.array(segment.axes)
    # By name: what FAISS calls it, and how many times the wanted are put in order by v.
    whole = {
        "compared one by one": ("Flat", 1),
        "compared one by one, 16 bits": ("SQfp16", 1),
        "IVF, 8 bits": (f"IVF{fine}_HNSW32,SQ8", 2),
        "IVF, product quantiser": (f"IVF{fine}_HNSW32,PQ96", 5),
        "HNSW, 8 bits": ("HNSW32_SQ8", 1),
        "HNSW, product quantiser": ("HNSW32_PQ96", 5),
    }
    along = {
        "main axes, one by one, 8 bits": ("SQ8", 2.56),
        "main axes, one by one, 4 bits": (f"PQ{len(axes)}x4fs", 5),
        "main axes, IVF, 8 bits (chosen)": (f"IVF{coarse},SQ8", 2.56),
        "main axes, IVF, 4 bits": (f"IVF{coarse},PQ{len(axes)}x4fs", 5),
        "main axes, HNSW, 8 bits": ("HNSW32_SQ8", 2.56),
    }
    if quick:  # the product quantiser trains for a minute whatever the number of stickers
        whole = {name: what for name, what in whole.items() if "PQ" not in what[0]}
    mean = stickers.mean(0)
    return [
        _kind(name, faiss.index_factory(len(kept), what, faiss.METRIC_INNER_PRODUCT), spare,
              stickers, wanted, truth, mean, kept)
        for kinds, kept in ((whole, np.eye(_SIZE, dtype=np.float32)), (along, axes))
        for name, (what, spare) in kinds.items()
    ]  # fmt: skip


def _kind(name, made, spare, stickers, queries, truth, mean, axes) -> dict:
    import faiss

    whole = len(axes) == _SIZE
    rows = stickers if whole else np.ascontiguousarray((stickers - mean) @ axes.T)
    start = time.perf_counter()
    inverted = faiss.try_extract_index_ivf(made)
    if inverted is not None:
        inverted.cp.niter, inverted.cp.spherical = 10, whole
        inverted.cp.max_points_per_centroid, inverted.cp.min_points_per_centroid = 48, 1
        if hasattr(inverted, "do_polysemous_training"):
            inverted.do_polysemous_training = False  # minutes, for a filter that is not used
    made.train(rows[:: max(len(rows) // 50_000, 1)].copy())
    made.add(rows)
    seconds = time.perf_counter() - start
    graph = isinstance(made, faiss.IndexHNSW)
    asked = min(int(spare * _COUNT), len(rows))
    effort, reached = (8 if inverted is not None else max(128, asked)), 0.0
    while True:
        if inverted is not None:
            inverted.nprobe = effort
            centres = faiss.downcast_index(inverted.quantizer)
            if isinstance(centres, faiss.IndexHNSW):
                centres.hnsw.efSearch = max(2 * effort, 64)
        elif graph:
            made.hnsw.efSearch = effort
        found, latencies = [], []
        for query in queries:
            begun = time.perf_counter()
            _, near = made.search(query[None] if whole else (query @ axes.T)[None], asked)
            near = near[0][near[0] >= 0]
            if spare > 1:
                near = near[np.argsort(-(stickers[near] @ query), kind="stable")]
            latencies.append(time.perf_counter() - begun)
            found.append(np.pad(near[:_COUNT], (0, _COUNT - min(len(near), _COUNT)),
                                constant_values=-1))  # fmt: skip
        reached = _recall(np.asarray(found), truth, 10)
        limit = inverted.nlist if inverted is not None else 4096
        if reached >= _RECALL or not (graph or inverted is not None) or effort >= limit:
            break
        effort = min(2 * effort, limit)
    return {
        "kind": name,
        "build_seconds": seconds,
        "mib": len(faiss.serialize_index(made)) / 2**20,
        "effort": effort if graph or inverted is not None else None,
        "p50_ms": 1000 * float(np.median(latencies)),
        "recall_10": reached,
        "removes": not graph,
        "filters": _filters(made, rows[:1]),
    }


def _filters(made, query: np.ndarray) -> bool:
    """Say whether a search can be told which rows may be found."""
    import faiss

    one = faiss.IDSelectorBatch([7])
    inverted, graph = faiss.try_extract_index_ivf(made), isinstance(made, faiss.IndexHNSW)
    kind = faiss.SearchParameters
    if inverted is not None:
        kind = faiss.SearchParametersIVF
    elif graph:
        kind = faiss.SearchParametersHNSW
    try:
        made.search(query, 1, params=kind(sel=one))
    except RuntimeError:
        return False
    return True


_TITLES = ["stickers", "axes kept", "of lists", "looked into", "add, s", "optimise, s",
           "on disk, MiB", "open, ms", "resident, MiB", "p50, ms", "p95, ms",
           "with v and names, ms", "one pack, ms", "a query of many, ms", "recall@10",
           "recall@100"]  # fmt: skip


def _cells(row: dict) -> list[object]:
    return [row["rows"], row["axes"], row["lists"], row["probes"], row["add_seconds"],
            row["optimize_seconds"], row["mib_on_disk"], row["open_ms"], row["resident_mib"],
            row["p50_ms"], row["p95_ms"], row["nearest_ms"], row["one_pack_ms"],
            row["batched_ms"], row["recall_10"], row["recall_100"]]  # fmt: skip


def _draw_cells(result: dict) -> tuple[list[str], list[list[object]]]:
    titles = ["drawn with seed", "axes kept", "of lists", "looked into", "p50, ms", "recall@10",
              "recall@100"]  # fmt: skip
    return titles, [
        [row["seed"], row["axes"], row["lists"], row["probes"], row["p50_ms"], row["recall_10"],
         row["recall_100"]]
        for row in result["draws"]
    ]  # fmt: skip


def _kind_cells(result: dict) -> tuple[list[str], list[list[object]]]:
    titles = ["kind", "build, s", "MiB", "effort", "p50, ms", "recall@10", "removals", "filters"]
    return titles, [
        [one["kind"], one["build_seconds"], one["mib"], one["effort"], one["p50_ms"],
         one["recall_10"], *("yes" if one[what] else "no" for what in ("removes", "filters"))]
        for one in result["kinds"]
    ]  # fmt: skip


def _lie_cells(result: dict) -> tuple[list[str], list[list[object]]]:
    """Lay out how features lie, of the model and as drawn."""
    rows: list[list[object]] = []
    for name, (title, bands) in _LIE_TITLES.items():
        pair = [result[which][name] for which in ("lie", "simulated")]
        if not bands:
            rows.append([title, *pair])
            continue
        for place, (first, end) in enumerate(zip((0, *_ENDS), _ENDS[:-1], strict=False)):
            rows.append(
                [f"{title} along axes {first + 1} to {end}", *(each[place] for each in pair)]
            )
    return ["", "trained model", "drawn"], rows


_LIE_TITLES = {
    "stickers": ("stickers", False),
    "dialogues": ("dialogues", False),
    "v_dimensions": ("effective dimensions of v", False),
    "v_mean": ("length of the mean of v", False),
    "v_nearest": ("cosine of a sticker to the nearest other", False),
    "v_median": ("to the median", False),
    "norm": ("length of v", False),
    "norm_spread": ("its standard deviation", False),
    "h_dimensions": ("effective dimensions of h", False),
    "h_mean": ("length of the mean of h", False),
    "means_cosine": ("cosine of the two means", False),
    "h_to_v_best": ("cosine of a dialogue to the best sticker", False),
    "h_to_v_10th": ("to the tenth", False),
    "h_to_v_median": ("to the median", False),
    "v_bands": ("share of v's variance", True),
    "h_bands": ("share of h's variance", True),
    "h_mean_bands": ("share of h's mean", True),
}


def table(result: dict) -> str:
    """Lay out for the terminal."""
    parts = [lines(_TITLES, [_cells(row) for row in result["rows"]])]
    parts += [lines(*_draw_cells(result)), lines(*_kind_cells(result))]
    return "\n\n".join(parts)


def page(result: dict, folder) -> str:
    """Render the section and its plot."""
    _plot(result, folder / "index.png")
    last = result["rows"][-1]
    parts = [
        f"`StickerIndex` with features of {result['size']} numbers, drawn to lie as those of a "
        f"trained model do (below). The {result['count']} best of single queries, "
        f"{last['threads']} threads, in a process that has just opened the index; recall against "
        "comparison with all. `with v and names` adds what reranking reads of the stickers found. "
        "Up to 10,000 stickers all are compared. Above, a pass over few axes finds candidates, "
        "which v puts in exact order; `optimize` tunes axes and lists to a recall@10 of 0.995 on "
        "dialogues that are not those searched for.",
        markdown(_TITLES, [_cells(row) for row in result["rows"]]),
        f"![Search time, building time, memory and recall by the number of stickers]"
        f"({folder.name}/index.png)"
        if folder.name
        else "",
    ]
    ceilings = result.get("ceilings") or {}
    if "read_gb_per_s" in ceilings:
        whole = last["rows"] * result["size"] * 4 / 1e9 / ceilings["read_gb_per_s"]
        looked = last["mib_inverted"] * 2**20 / 1e9 / ceilings["read_gb_per_s"]
        part = looked * (last["probes"] or 0) / (last["lists"] or 1)
        parts.append(
            f"The limit: reading all features of {last['rows']:,} stickers once takes "
            f"{1000 * whole:.0f} ms at this machine's memory speed, which no exact search can "
            f"beat; the lists that are looked into, {1000 * part:.2f} ms. A search takes "
            f"{last['p50_ms']:.2f} ms, so {100 * 1000 * part / last['p50_ms']:.0f} % of it is "
            "what memory asks for; the rest is finding the lists, comparing, and putting what was "
            "found in exact order."
        )
    parts.append(
        f"How much must be looked into depends on where dialogues happen to lie to the stickers: "
        f"{result['kinds_rows']:,} stickers, drawn anew each time.\n\n"
        + markdown(*_draw_cells(result))
    )
    if result["kinds"]:
        parts.append(
            f"Kinds that were tried, {result['kinds_rows']:,} stickers, each with the least "
            f"effort (lists, or candidates of the graph) that reaches a recall@10 of {_RECALL}, or "
            "with all there is; what is kept with few bits is put in order by v. `main axes` are "
            "those that `StickerIndex` keeps:\n\n" + markdown(*_kind_cells(result))
        )
    parts.append(
        "How features lie, of a trained model and as they are drawn, both measured on as many "
        "(effective dimensions are the participation ratio of the covariance; axes are the "
        "stickers' principal ones, v and h of length 1):\n\n" + markdown(*_lie_cells(result))
    )
    return "\n\n".join(part for part in parts if part)


def _plot(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["rows"]
    counts = [row["rows"] for row in rows]
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    series = (
        ("search of the 100 best, ms", [("p50", "p50_ms"), ("p95", "p95_ms")]),
        ("building, s", [("adding", "add_seconds"), ("optimising", "optimize_seconds")]),
        ("MiB", [("on disk", "mib_on_disk"), ("resident", "resident_mib")]),
        ("recall", [("@10", "recall_10"), ("@100", "recall_100")]),
    )
    for axis, (title, curves) in zip(axes, series, strict=True):
        for name, key in curves:
            axis.plot(counts, [row[key] for row in rows], marker="o", label=name)
        axis.set(title=title, xlabel="stickers", xscale="log")
        if title != "recall":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    axes[0].axhline(20, color="grey", linestyle=":")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def headlines(result: dict) -> list[dict]:
    """Give the row that the README and model cards show."""
    last = result["rows"][-1]
    return [
        {
            "measurement": f"search {last['rows']:,} stickers for the {result['count']} best",
            "size": f"{result['size']}",
            "seconds": last["p50_ms"] / 1000,
            "rows_per_second": 1000 / last["p50_ms"],
            "peak_memory_mib": last["resident_mib"],
        }
    ]


if __name__ == "__main__":
    print(json.dumps(_searcher(Path(sys.argv[1]), int(sys.argv[2]))))
