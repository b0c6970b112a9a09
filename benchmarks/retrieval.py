"""Nearest places: time, memory and recall.

python benchmarks/retrieval.py [--sizes 10000,100000,1000000]        simulated descriptors
python benchmarks/retrieval.py --recall SEQUENCES/redkitchen ...   real images

Simulated descriptors are whitened ones: directions at random, each query near one of them, at
the cosine that real images of one place have (0.4).
Real: a map of every third image of the even blocks of 20, queries from the odd blocks; a hit is a
keyframe within 0.7 m and 35 degrees of view among the first ten.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import refusals  # noqa: F401

from l2m_ros.bags.recording import open_recording
from l2m_ros.mapping.descriptor import SIZE, learn
from l2m_ros.mapping.retrieval import EXACT_UP_TO, PlaceIndex
from l2m_ros.matching import portable
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.progress import track

COSINE = 0.4
QUERIES = 100
BLOCK, EVERY = 20, 3
HIT_M, HIT_RAD = 0.7, np.radians(35)


def simulated(count: int, rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((count, SIZE), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    index = PlaceIndex(np.arange(count), vectors)
    built_s = time.perf_counter() - started
    memory_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    own = rng.integers(0, count, QUERIES)
    noise = rng.standard_normal((QUERIES, SIZE), np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    queries = COSINE * vectors[own] + np.sqrt(1 - COSINE**2) * noise
    ms, hits, cpu_s = [], 0, time.process_time()
    for id, query in zip(own, queries, strict=True):
        started = time.perf_counter()
        found = index.nearest(query, 10)
        ms.append(1e3 * (time.perf_counter() - started))
        hits += any(i == id for i, _ in found)
    cpu_ms = 1e3 * (time.process_time() - cpu_s) / QUERIES
    kind = "exact" if count <= EXACT_UP_TO else "lists, fp16"
    print(
        f"{count:>9} {kind:<12} build {built_s:6.1f} s  +{memory_mb:6.0f} MB at most  query "
        f"{np.median(ms):6.2f} ms, p95 {np.percentile(ms, 95):6.2f} ms, {cpu_ms:.2f} ms of "
        f"processor  found {hits}/{QUERIES}",
        flush=True,
    )


def recall(path: Path, model: str) -> None:
    matcher = load_matcher(model)
    local, poses = [], []
    with open_recording(path) as recording:
        for shot in track(recording.shots(), "encoding", recording.count):
            arrays = portable.to_arrays(matcher, matcher.encode(shot.frame.rgb))
            local.append(portable.local_descriptors(arrays))
            poses.append(shot.truth)
    stack = np.stack(poses)
    numbers = np.arange(len(local))
    kept = numbers[numbers // BLOCK % 2 == 0][::EVERY]
    queries = numbers[numbers // BLOCK % 2 == 1]
    words = learn([local[i] for i in kept], model, "")
    index = PlaceIndex(kept, np.stack([words.describe(local[i]) for i in kept]))
    away_m = np.linalg.norm(stack[:, None, :3, 3] - stack[None, :, :3, 3], axis=2)
    cosine = np.clip(stack[:, :3, 2] @ stack[:, :3, 2].T, -1, 1)
    near = (away_m < HIT_M) & (np.arccos(cosine) < HIT_RAD)
    seen = [q for q in queries if near[q, kept].any()]
    words_ = []
    for count in (1, 3, 5, 10):
        hits = 0
        for q in seen:
            found = index.nearest(words.describe(local[q]), count)
            hits += any(near[q, id] for id, _ in found)
        words_.append(f"recall@{count} {100 * hits / max(len(seen), 1):.1f} %")
    print(f"{path.name}, {model}: {len(kept)} keyframes, {len(seen)} queries: {', '.join(words_)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--recall", type=Path, nargs="*", default=[])
    parser.add_argument("--model", default="lite")
    args = parser.parse_args()
    if args.recall:
        for path in args.recall:
            recall(path, args.model)
        return
    rng = np.random.default_rng(0)
    for size in args.sizes.split(","):
        simulated(int(size), rng)


if __name__ == "__main__":
    main()
