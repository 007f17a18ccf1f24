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
# How features of a trained model lie: v of 330 emoji stickers and h~_T of 300 dialogues, as
# `lie_of` measures it. `--index-model` and `--index-data` measure them anew.
_LIE = {
    "v_dimensions": 16.3,
    "v_mean": 0.616,
    "h_dimensions": 3.57,
    "h_mean": 0.855,
    "means_cosine": 0.170,
    "v_nearest": 0.869,
    "v_median": 0.371,
    "h_to_v_best": 0.381,
    "h_to_v_10th": 0.282,
    "h_to_v_median": 0.083,
    "norm": 12.4,
    "norm_spread": 1.30,
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
    rows, kinds = [], []
    simulated = None
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=args.index_folder) as folder:
            simulation = Simulation(lie, size, args.seed)
            index, row = _build(Path(folder), simulation, 500 if args.quick else 50_000)
            queries = simulation.queries(count)
            truth = _truth(index, queries)
            if simulated is None or size == sizes[-1]:
                simulated = simulation.measured(index, queries)
            row.update(_search(Path(folder), queries, truth, args.repeats))
            rows.append({"rows": size, **row})
            if size == args.index_kinds_at or args.quick and size == sizes[0]:
                kinds = _kinds(index, queries, truth, quick=args.quick)
    return {
        "rows": rows,
        "kinds": kinds,
        "kinds_rows": sizes[0] if args.quick else args.index_kinds_at,
        "size": _SIZE,
        "count": _COUNT,
        "lie": lie,
        "simulated": simulated,
        "peak_memory_mib": peak_memory_mib(),
    }


class Simulation:
    """Stickers and dialogues whose features lie as those of a trained model do.

    Features v have a common mean, vary in few directions, and gather: many stickers are the same
    face in another style. Dialogues' h~_T lie about a mean of their own, off the stickers, and
    vary in fewer directions.

    Args:
        lie: what `lie_of` measured.
        rows: how many stickers, of which about 100 are alike.
        seed: of all that is drawn.
    """

    def __init__(self, lie: dict, rows: int, seed: int):
        self.lie, self.rows, self.seed = lie, rows, seed
        draw = np.random.default_rng(seed)
        basis, _ = np.linalg.qr(draw.normal(size=(_SIZE, _SIZE)))
        self.v_axes = (basis * _spectrum(lie["v_dimensions"])).T.astype(np.float32)
        self.h_axes = (basis * _spectrum(lie["h_dimensions"])).T.astype(np.float32)
        ones = draw.normal(size=(2, _SIZE))
        ones, _ = np.linalg.qr(ones.T)
        self.v_mean = ones[:, 0].astype(np.float32)
        turn = lie["means_cosine"]
        self.h_mean = (turn * ones[:, 0] + np.sqrt(1 - turn**2) * ones[:, 1]).astype(np.float32)
        self.centres = draw.normal(size=(max(rows // 100, 10), _SIZE)).astype(np.float32)
        # Of what varies, the share that stickers of one centre have in common: with it the nearest
        # has the cosine that was measured.
        varied = 1 - lie["v_mean"] ** 2
        self.common = np.clip((lie["v_nearest"] - lie["v_mean"] ** 2) / varied, 0.05, 0.95)

    def blocks(self):
        """Yield v, (n, 768) at a time."""
        mean, common = self.lie["v_mean"], self.common
        for first in range(0, self.rows, _ROWS_A_PASS):
            draw = np.random.default_rng((self.seed, first))
            count = min(_ROWS_A_PASS, self.rows - first)
            centres = self.centres[draw.integers(len(self.centres), size=count)]
            own = draw.standard_normal((count, _SIZE), dtype=np.float32)
            varied = (np.sqrt(common) * centres + np.sqrt(1 - common) * own) @ self.v_axes
            features = mean * self.v_mean + np.sqrt(1 - mean**2) * varied
            norms = draw.normal(self.lie["norm"], self.lie["norm_spread"], (count, 1)).clip(1)
            yield (features * norms).astype(np.float32)

    def queries(self, count: int) -> np.ndarray:
        """Draw h~_T of dialogues, (count, 768)."""
        draw = np.random.default_rng((self.seed, 1, count))
        own = draw.standard_normal((count, _SIZE), dtype=np.float32)
        mean = self.lie["h_mean"]
        return (mean * self.h_mean + np.sqrt(1 - mean**2) * own @ self.h_axes).astype(np.float32)

    def measured(self, index, queries: np.ndarray) -> dict:
        """Measure of what was drawn what was measured of the model."""
        draw = np.random.default_rng(0)
        chosen = np.sort(draw.choice(self.rows, min(self.rows, 5000), replace=False))
        return _lie(index.take(chosen).embeds.numpy(), queries)


def _spectrum(dimensions: float) -> np.ndarray:
    """Give deviations along axes that fall by a power law, in so many effective dimensions."""
    places = np.arange(1, _SIZE + 1)
    low, high = 0.0, 6.0
    for _ in range(60):
        power = (low + high) / 2
        shares = places**-power / (places**-power).sum()
        low, high = (power, high) if 1 / (shares**2).sum() > dimensions else (low, power)
    return np.sqrt(shares)


def lie_of(model: Path, data: Path) -> dict:
    """Measure how the features of a trained model lie, over its data's stickers and dialogues."""
    import torch

    from dataset_mod.prepared import load_prepared
    from modeling_cks import CKSModel, CKSProcessor
    from modeling_cks.cks_ranker import CKSRanker
    from modeling_cks.training import StickerInventory

    for path in (model, data):
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
    tables = load_prepared(data)
    processor = CKSProcessor.from_pretrained(model)
    processor.ocr_cache_path, processor.knowledge_store = str(data / "ocr.json"), str(
        data / "knowledge"
    )  # fmt: skip
    ranker = CKSRanker(
        CKSModel.from_pretrained(model).eval(),
        processor,
        StickerInventory(tables.stickers, processor),
    )
    stickers, dialogues = ranker.sticker_embeds(), []
    samples = list(tables.splits["validation"])[:300]
    with torch.no_grad():
        for first in range(0, len(samples), 32):
            batch = ranker.collator(samples[first : first + 32])
            output = ranker.model(**batch, sticker_embeds=stickers[batch["sticker_ids"]])
            dialogues.append(output.dialogue_embeds)
    return _lie(stickers.numpy(), torch.cat(dialogues).numpy())


def _lie(stickers: np.ndarray, dialogues: np.ndarray) -> dict:
    norms = np.linalg.norm(stickers, axis=1)
    v = stickers / norms[:, None]
    h = dialogues / np.linalg.norm(dialogues, axis=1, keepdims=True)
    v_mean, h_mean = v.mean(0), h.mean(0)
    among = v[:1000] @ v.T
    among[np.arange(len(among)), np.arange(len(among))] = np.nan
    across = np.sort(h @ v.T, axis=1)[:, ::-1]
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
    return {name: float(value) for name, value in found.items()}


def _dimensions(features: np.ndarray) -> float:
    """Count the effective dimensions: the participation ratio of the covariance."""
    shares = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    return shares.sum() ** 2 / (shares**2).sum()


def _build(folder: Path, simulation: Simulation, exact_below: int):
    """Add all stickers, then optimise."""
    from modeling_cks.sticker_index import StickerIndex

    index = StickerIndex.create(folder / "index", _SIZE, exact_below=exact_below, recall=0.995)
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
    entry = index._state.manifest["segments"][0]
    files = [path for path in index.folder.rglob("*") if path.is_file()]
    inverted = index.folder / f"segment-{entry['number']}" / "nearest.faiss"
    return index, {
        "kind": "exact" if entry["probes"] is None else "IVF, 8 bits",
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
    stickers = segment.embeds / segment.norms[:, None]
    wanted = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    lists = 2 ** round(np.log2(4 * np.sqrt(len(stickers))))
    kinds = {
        "compared one by one": ("Flat", 1),
        "compared one by one, 16 bits": ("SQfp16", 1),
        "IVF, 8 bits (chosen)": (f"IVF{lists}_HNSW32,SQ8", 2),
        "HNSW, 8 bits": ("HNSW32_SQ8", 1),
        "IVF, product quantiser": (f"IVF{lists}_HNSW32,PQ96", 5),
    }
    if quick:
        kinds.popitem()  # trains for a minute whatever the number of stickers
    return [
        _kind(name, faiss.index_factory(_SIZE, what, faiss.METRIC_INNER_PRODUCT), spare, stickers,
              wanted, truth)
        for name, (what, spare) in kinds.items()
    ]  # fmt: skip


def _kind(name: str, made, spare: int, stickers, queries, truth) -> dict:
    import faiss

    start = time.perf_counter()
    inverted = faiss.try_extract_index_ivf(made)
    if inverted is not None:
        inverted.cp.niter, inverted.cp.spherical = 10, True
        inverted.cp.max_points_per_centroid, inverted.cp.min_points_per_centroid = 48, 1
        if hasattr(inverted, "do_polysemous_training"):
            inverted.do_polysemous_training = False  # minutes, for a filter that is not used
    made.train(stickers)
    made.add(stickers)
    seconds = time.perf_counter() - start
    graph = isinstance(made, faiss.IndexHNSW)
    effort, reached = (8 if inverted is not None else 128), 0.0
    while True:
        if inverted is not None:
            inverted.nprobe = effort
            faiss.downcast_index(inverted.quantizer).hnsw.efSearch = max(2 * effort, 64)
        elif graph:
            made.hnsw.efSearch = effort
        found, latencies = [], []
        for query in queries:
            begun = time.perf_counter()
            _, rows = made.search(query[None], spare * _COUNT)
            rows = rows[0][rows[0] >= 0]
            if spare > 1:
                rows = rows[np.argsort(-(stickers[rows] @ query), kind="stable")]
            latencies.append(time.perf_counter() - begun)
            found.append(np.pad(rows[:_COUNT], (0, _COUNT - min(len(rows), _COUNT)),
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
    }


_TITLES = ["stickers", "kind", "lists looked into", "add, s", "optimise, s", "on disk, MiB",
           "open, ms", "resident, MiB", "p50, ms", "p95, ms", "with v and names, ms",
           "one pack, ms", "a query of many, ms", "recall@10", "recall@100"]  # fmt: skip


def _cells(row: dict) -> list[object]:
    return [row["rows"], row["kind"], row["probes"], row["add_seconds"], row["optimize_seconds"],
            row["mib_on_disk"], row["open_ms"], row["resident_mib"], row["p50_ms"], row["p95_ms"],
            row["nearest_ms"], row["one_pack_ms"], row["batched_ms"], row["recall_10"],
            row["recall_100"]]  # fmt: skip


def _kind_cells(result: dict) -> tuple[list[str], list[list[object]]]:
    titles = ["kind", "build, s", "MiB", "effort", "p50, ms", "recall@10", "removals"]
    return titles, [
        [one["kind"], one["build_seconds"], one["mib"], one["effort"], one["p50_ms"],
         one["recall_10"], "yes" if one["removes"] else "no"]
        for one in result["kinds"]
    ]  # fmt: skip


def table(result: dict) -> str:
    """Lay out for the terminal."""
    parts = [lines(_TITLES, [_cells(row) for row in result["rows"]])]
    if result["kinds"]:
        parts.append(lines(*_kind_cells(result)))
    return "\n\n".join(parts)


def page(result: dict, folder) -> str:
    """Render the section and its plot."""
    _plot(result, folder / "index.png")
    last = result["rows"][-1]
    measured = [[name, result["lie"][name], result["simulated"][name]] for name in result["lie"]]
    parts = [
        f"`StickerIndex` with features of {result['size']} numbers, drawn to lie as those of a "
        f"trained model do (below). The {result['count']} best of single queries, "
        f"{last['threads']} threads, in a process that has just opened the index; recall against "
        "comparison with all. `with v and names` adds what reranking reads of the stickers found. "
        "**Easier than the real thing in one respect**: dialogues are drawn to vary along the "
        "stickers' main axes, and those of a trained model do so less; then more lists must be "
        "looked into for the same recall, which was not measured here. "
        "`optimize` tunes to the recall on what it is given.",
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
        lists = 2 ** round(np.log2(4 * np.sqrt(last["rows"])))
        part = looked * (last["probes"] or lists) / lists
        parts.append(
            f"The limit: reading all features of {last['rows']:,} stickers once takes "
            f"{1000 * whole:.0f} ms at this machine's memory speed, which no exact search can "
            f"beat; the lists that are looked into, {1000 * part:.2f} ms. A search takes "
            f"{last['p50_ms']:.2f} ms, so {100 * 1000 * part / last['p50_ms']:.0f} % of it is "
            "what memory asks for; the rest is finding the lists, comparing, and putting what was "
            "found in exact order."
        )
    if result["kinds"]:
        parts.append(
            f"Kinds that were tried, {result['kinds_rows']:,} stickers, each with the least "
            f"effort (lists, or candidates of the graph) that reaches a recall@10 of {_RECALL}; "
            "those of a product quantiser are put in order by v:\n\n"
            + markdown(*_kind_cells(result))
        )
    parts.append(
        "How features lie, of a trained model and as they were drawn (cosines; effective "
        "dimensions as the participation ratio of the covariance):\n\n"
        + markdown(["", "trained model", "drawn"], measured)
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
