"""Kernel density beside scikit-learn's: same rows, same bandwidth, same queries, the log-densities compared.

    python benchmarks/kde.py [--rows 100000] [--queries 100000] [--dims 2 8] [--rounds 5] [--slice 500] [--threads 1]
                             [--kernels gaussian epanechnikov] [--full]

Each contender runs in a process of its own, which loads the rows, builds its tree once, and then scores slices of the
queries when it is told to. The slices are interleaved, a round at a time (jensen, each of scikit-learn's algorithms), so
that a shared machine slows all of them alike; `speed_ratio` is the median over rounds of the best peer's time for a query
by jensen's. scikit-learn's algorithms are kd_tree and ball_tree at leaf sizes 40 (its default) and 400, and one leaf for
all (brute force); rtol is its default 1e-8, breadth-first as by default. It scores on one thread; `--threads` is jensen's.

jensen is scored through `KernelDensity.log_likelihood` in slices of `--jensen-slice` rows
(`Pipeline.log_likelihood` hands over 512 at a time unless told otherwise; 512 cost up to twice as much a query in 2-D).
scikit-learn's time for a query does not depend on the slice.
Reported a kernel and dimension:

    seconds_all    median time for a query × `--queries`; with `--full` all queries are scored by both, and timed as a whole
    peak_mib       peak resident memory of the process, and above what it was with the rows and libraries loaded
    difference     the largest difference of log-densities between jensen and the kd_tree, on the queries both scored

The rows are standard normal, the queries another draw; the bandwidth is Scott's rule, n^(-1/(d+4)), √5 times that for the
Epanechnikov kernel. scikit-learn's Epanechnikov kernel is radial and jensen's a product: they are one in one dimension, and
`difference` is null in more, where the times are those of two kernels with a compact support. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PEERS = {
    "kd_tree 40": ("kd_tree", 40),
    "kd_tree 400": ("kd_tree", 400),
    "ball_tree 40": ("ball_tree", 40),
    "ball_tree 400": ("ball_tree", 400),
    "one leaf": ("kd_tree", None),
}


def memory():
    """Peak and present resident memory in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))


def scorer(who, x, h, kernel):
    """Builds a function queries → log-densities, once everything is imported."""
    if who == "jensen":
        import torch

        from jensen.models.kde import KernelDensity

        def build():
            bandwidths = torch.full((x.shape[1],), h, dtype=torch.float64)
            model = KernelDensity.from_rows(torch.from_numpy(x), bandwidths, kernel=kernel)
            assert model.sums is not None  # made here, so that the first slice does not wait for it
            return lambda q: model.log_likelihood(torch.from_numpy(q)).value.numpy()

        return build
    from sklearn.neighbors import KernelDensity as Peer

    algorithm, leaf = PEERS[who]
    return lambda: Peer(bandwidth=h, kernel=kernel, algorithm=algorithm, leaf_size=leaf or len(x)).fit(x).score_samples


def serve(who, folder, kernel, h):
    """Score the slices named on stdin, a line of seconds for each; at the end of input say what memory it took."""
    folder = Path(folder)
    x, queries = np.load(folder / "rows.npy"), np.load(folder / "queries.npy", mmap_mode="r")
    build = scorer(who, x, h, kernel)
    before = memory()[1]
    began = time.perf_counter()
    score = build()
    print(time.perf_counter() - began, flush=True)
    out = np.full(len(queries), np.nan)
    for line in sys.stdin:
        first, last = map(int, line.split())
        q = np.array(queries[first:last])
        began = time.perf_counter()
        out[first:last] = score(q)
        print(time.perf_counter() - began, flush=True)
    np.save(folder / f"{who}.npy", out)
    peak = memory()[0]
    print(json.dumps({"peak_mib": peak, "above_rows_mib": peak - before}), flush=True)


class Contender:
    """A process that scores when told to."""

    def __init__(self, options, who, folder, kernel, h):
        threads = str(options.threads if who == "jensen" else 1)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        command = [sys.executable, __file__, "--serve", json.dumps([who, str(folder), kernel, h])]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict.fromkeys(names, threads)},
        )
        self.build, self.a_query = self.answer(), []

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a contender died; its message is above")
        return json.loads(line)

    def score(self, first, last):
        print(first, last, file=self.process.stdin, flush=True)
        seconds = self.answer()
        self.a_query.append(seconds / (last - first))
        return seconds

    def end(self):
        self.process.stdin.close()
        found = self.answer()
        self.process.wait()
        return found


def compared(options, folder, kernel, dims):
    draw = np.random.default_rng(0)
    np.save(folder / "rows.npy", draw.normal(size=(options.rows, dims)))
    np.save(folder / "queries.npy", draw.normal(size=(options.queries, dims)))
    h = options.rows ** (-1 / (dims + 4)) * (5**0.5 if kernel == "epanechnikov" else 1)
    contenders = {who: Contender(options, who, folder, kernel, h) for who in ("jensen", *PEERS)}
    few, many = min(options.slice, options.queries), min(options.jensen_slice, options.queries)
    for turn in range(options.rounds):
        for who, contender in contenders.items():
            size = many if who == "jensen" else few
            first = turn * few % max(1, options.queries - size + 1)
            contender.score(first, first + size)
    a_query = {who: statistics.median(contender.a_query) for who, contender in contenders.items()}
    best = min(PEERS, key=a_query.__getitem__)
    mine = contenders["jensen"].a_query
    ratios = [theirs / own for theirs, own in zip(contenders[best].a_query, mine, strict=True)]
    row = {
        "d": dims,
        "bandwidth": h,
        "best_peer": best,
        "speed_ratio": statistics.median(ratios),
        "speed_ratios": ratios,
        "seconds_all": {who: seconds * options.queries for who, seconds in a_query.items()},
        "build_seconds": {who: contender.build for who, contender in contenders.items()},
    }
    if options.full:
        row["full_seconds"] = {who: contenders[who].score(0, options.queries) for who in ("jensen", best)}
    row["memory"] = {who: contender.end() for who, contender in contenders.items()}
    row["difference"] = None if kernel == "epanechnikov" and dims > 1 else difference(folder, "kd_tree 40")
    return row


def difference(folder, who):
    mine, theirs = np.load(folder / "jensen.npy"), np.load(folder / f"{who}.npy")
    both = ~np.isnan(mine) & ~np.isnan(theirs)
    same = both & (mine == theirs)  # -inf on both sides
    return {"queries": int(both.sum()), "largest": float(np.abs(mine[both & ~same] - theirs[both & ~same]).max())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--dims", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--kernels", nargs="*", default=["gaussian"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice", type=int, default=500)
    parser.add_argument("--jensen-slice", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="also score all queries once by jensen and the best peer")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*json.loads(options.serve))
        return
    table = {"rows": options.rows, "queries": options.queries, "threads": options.threads}
    for kernel in options.kernels:
        table[kernel] = []
        for dims in options.dims:
            with tempfile.TemporaryDirectory() as where:
                table[kernel].append(compared(options, Path(where), kernel, dims))
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
