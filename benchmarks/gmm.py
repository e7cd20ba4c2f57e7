"""Full-covariance EM beside scikit-learn's: same rows, same start, to the same log-likelihood.

    python benchmarks/gmm.py [--rows 1000000] [--dims 32] [--components 32] [--iterations 10] [--threads 2]
                             [--dtypes float32 float64] [--missing 0.2] [--growth] [--picture growth.png]

Each contender runs in a process of its own. scikit-learn makes `iterations` steps from the start, without stopping; jensen
runs until an E-step finds its log-likelihood a row at least scikit-learn's (to 1e-6 nats), so it needs one more. Both start
from the same weights, means and covariances, without a prior, and read the same file of rows. Reported for each arithmetic:

    seconds        of the iterations, best of `--repeats`; their ratio
    peak           the process's peak resident memory, whole, and above what it was before the fit with the rows loaded
    from_file      jensen once more with rows that stay in their file and are read a batch at a time, to the same end
    gflops         arithmetic that jensen's kernel does, 4 K p flops a row and iteration with p = d (d + 1)/2 + d + 1,
                   against a square matrix product in the same process; the product is timed before every iteration, since
                   the rate of a shared machine wanders, and the share is the median over iterations
    loglik         nats a row of both ends, by one float64 density

`--missing` adds the time of an iteration with such a share of cells missing at random, and with as many in 8 patterns;
`--growth` the time of an iteration as rows, dims and components double, and `--picture` draws it. Prints one JSON object.
"""

import argparse
import json
import os
import statistics as statistics_of
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make(folder, rows, dims, components, seed=0):
    """Rows of a mixture with overlapping components, mean 3 and sd about 2, and a start: a step of k-means' kind."""
    draw = np.random.default_rng(seed)
    means = draw.normal(size=(components, dims)) * 1.5 + 3
    roots = draw.normal(size=(components, dims, dims)) / np.sqrt(dims) * 0.5 + 0.8 * np.eye(dims)
    out = np.lib.format.open_memmap(folder / "rows64.npy", mode="w+", dtype=np.float64, shape=(rows, dims))
    for begin in range(0, rows, 50_000):
        n = min(50_000, rows - begin)
        z = draw.integers(0, components, n)
        eps = draw.normal(size=(n, dims))
        block = np.empty((n, dims))
        for k in range(components):
            block[z == k] = means[k] + eps[z == k] @ roots[k].T
        out[begin : begin + n] = block
    out.flush()
    np.save(folder / "rows32.npy", np.asarray(out, dtype=np.float32))
    few = out[draw.choice(rows, min(rows, 20_000), replace=False)]
    nearest = few[draw.choice(len(few), components, replace=False)]
    for _ in range(3):
        distance = ((few**2).sum(1)[:, None] - 2 * few @ nearest.T + (nearest**2).sum(1)).argmin(1)
        nearest = np.stack(
            [few[distance == k].mean(0) if (distance == k).any() else nearest[k] for k in range(components)]
        )
    covariance = np.cov((few - nearest[distance]).T)
    np.savez(folder / "start.npz", weights=np.full(components, 1 / components), means=nearest, covariance=covariance)


def memory():
    """Peak and present resident memory in MiB; of this program alone (ru_maxrss would remember its parent's)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))


def peer(folder, dtype, iterations, start):
    from sklearn.mixture import GaussianMixture

    x = np.load(folder / f"rows{dtype[-2:]}.npy")
    components = len(start["weights"])
    precision = np.repeat(np.linalg.inv(start["covariance"])[None], components, 0)
    model = GaussianMixture(
        components,
        tol=0,
        max_iter=iterations,
        reg_covar=0,
        weights_init=start["weights"].astype(x.dtype),
        means_init=start["means"].astype(x.dtype),
        precisions_init=precision.astype(x.dtype),
    )
    # with all three given there is nothing to initialise, but scikit-learn still clusters first unless told otherwise
    model._initialize_parameters = lambda X, random_state, **_: model._initialize(X, None)
    before = memory()[1]
    began = time.perf_counter()
    model.fit(x)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "iterations": model.n_iter_,
        "peak_mib": memory()[0],
        "above_rows_mib": memory()[0] - before,
        "parameters": [model.weights_.tolist(), model.means_.tolist(), model.covariances_.tolist()],
    }


def rate(a):
    """The machine's matrix-product rate now, GFLOP/s."""
    began = time.perf_counter()
    a @ a
    return 2 * len(a) ** 3 / (time.perf_counter() - began) / 1e9


class OnDisk:
    """Rows in a .npy file, read when they are asked for: only the batch is ever in memory."""

    def __init__(self, path):
        self.file = open(path, "rb")  # noqa: SIM115
        np.lib.format.read_magic(self.file)
        self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(self.file)
        self.start = self.file.tell()

    def __len__(self):
        return self.shape[0]

    def batch(self, rows):
        import torch

        from jensen.data.examples import Batch

        begin, end, _ = rows.indices(len(self))
        self.file.seek(self.start + begin * self.shape[1] * self.dtype.itemsize)
        x = np.fromfile(self.file, self.dtype, (end - begin) * self.shape[1]).reshape(-1, self.shape[1])
        return Batch(torch.from_numpy(x), torch.arange(begin, end))


def problem(folder, dtype, start, holes="none", from_file=False):
    import torch

    import jensen.mixture.rows
    from jensen.data.examples import Examples
    from jensen.mixture.ascent import Settings
    from jensen.mixture.covariance import Full
    from jensen.mixture.em import Problem
    from jensen.mixture.parameters import Parameters
    from jensen.mixture.prior import Prior
    from jensen.mixture.rows import Chunks, scale_of

    path = folder / f"rows{dtype[-2:]}.npy"
    rows = OnDisk(path) if from_file else None
    if from_file:
        jensen.mixture.rows.KEPT_CELLS = 0  # as for a file larger than memory; one of this size would be kept
    x = torch.empty(0, len(start["means"][0])) if from_file else torch.from_numpy(np.load(path))
    before = memory()[1]
    if holes != "none":
        share, patterns = holes
        generator = torch.Generator().manual_seed(0)
        mask = torch.rand(patterns or len(x), x.shape[1], generator=generator) < share
        x[mask if patterns == 0 else mask[torch.randint(patterns, (len(x),), generator=generator)]] = torch.nan
    components = len(start["weights"])
    covariances = torch.from_numpy(start["covariance"]).expand(components, -1, -1)
    begin = Parameters(
        torch.from_numpy(start["weights"]), torch.from_numpy(start["means"]), {"covariances": covariances}
    )
    chunks = Chunks(rows or Examples(x, torch.arange(len(x))))
    prior = Prior(0.0, 0.0, torch.eye(x.shape[1], dtype=torch.float64))
    return lambda settings=None: (
        Problem(chunks, scale_of(chunks), Full(), prior, settings or Settings(0.0, 1000)),
        begin,
        before,
    )


def ours(folder, dtype, start, target, from_file=False):
    import torch

    from jensen.mixture.em import maximise

    ready = problem(folder, dtype, start, from_file=from_file)
    began = time.perf_counter()
    task, now, before = ready()
    seconds = time.perf_counter() - began
    d, k, n = now.dims, now.components, len(task.chunks)
    flops = 4 * k * (d * (d + 1) // 2 + d + 1) * n
    rung, done, rates, shares, square = 0, 0, [], [], None
    while True:  # the driver's iteration, with another rule to stop
        if done:  # the first one shows the memory, which the square matrices would be in
            square = torch.randn(2048, 2048, dtype=getattr(torch, dtype)) if square is None else square
            rates.append(max(rate(square) for _ in range(3)))
        began = time.perf_counter()
        statistics, kernel, rung = task.expect(now, rung)
        far = statistics.log_likelihood / statistics.weight < target - 1e-6
        if far:
            now = maximise(statistics, task.covariance, task.prior, now)
        took = time.perf_counter() - began
        seconds, done = seconds + took, done + 1
        if done == 1:
            peak = memory()
        else:
            shares.append(flops / took / 1e9 / rates[-1])
        if not far:
            break
    return {
        "seconds": seconds,
        "iterations": done,
        "kernel": kernel.name,
        "rounding_nats_a_row": task.noise(kernel, 1.0),
        "peak_mib": peak[0],
        "above_rows_mib": peak[0] - before,
        "gflops": flops * done / seconds / 1e9,
        "matmul_gflops": statistics_of.median(rates),
        "share": statistics_of.median(shares),
        "parameters": [now.weights.tolist(), now.means.tolist(), now.spread["covariances"].tolist()],
    }


def iteration(folder, dtype, start, holes, repeats=1):
    """Seconds of one E- and M-step."""
    from jensen.mixture.em import maximise

    task, now, _ = problem(folder, dtype, start, holes)()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        maximise(task.expect(now)[0], task.covariance, task.prior, now)
        best = min(best, time.perf_counter() - began)
    return {"seconds": best}


def log_likelihood(folder, parameters):
    """Nats a row of all rows, by the library's float64 density."""
    import torch

    from jensen.models.gmm import GaussianMixture

    model = GaussianMixture.from_parameters(*(torch.tensor(p, dtype=torch.float64) for p in parameters))
    x = torch.from_numpy(np.load(folder / "rows64.npy"))
    return sum(float(model.log_likelihood(part).value.sum()) for part in x.split(16384)) / len(x)


def child(options, **job):
    """Run a contender in its own process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def work(job):
    folder = Path(job["folder"])
    start = dict(np.load(folder / "start.npz"))
    if job["who"] == "peer":
        return peer(folder, job["dtype"], job["iterations"], start)
    if job["who"] == "ours":
        return ours(folder, job["dtype"], start, job["target"], job.get("from_file", False))
    if job["who"] == "score":
        return log_likelihood(folder, job["parameters"])
    return iteration(folder, job["dtype"], start, job["holes"], 2)


def best_of(options, **job):
    runs = [child(options, **job) for _ in range(options.repeats)]
    return min(runs, key=lambda run: run["seconds"])


def compared(options, folder, dtype):
    common = {"folder": str(folder), "dtype": dtype, "iterations": options.iterations}
    theirs = best_of(options, who="peer", **common)
    target = score(folder, theirs)
    mine = best_of(options, who="ours", target=target, **common)
    streamed = best_of(options, who="ours", target=target, from_file=True, **common)
    row = {
        "speed_ratio": theirs["seconds"] / mine["seconds"],
        "peak_ratio": mine["peak_mib"] / theirs["peak_mib"],
        "above_rows_ratio": mine["above_rows_mib"] / theirs["above_rows_mib"],
        "share_of_matmul_rate": mine["share"],
        "from_file": {
            "speed_ratio": theirs["seconds"] / streamed["seconds"],
            "peak_ratio": streamed["peak_mib"] / theirs["peak_mib"],
            "peak_mib": streamed["peak_mib"],
            "loglik_jensen": score(folder, streamed),
        },
        "loglik_sklearn": target,
        "loglik_jensen": score(folder, mine),
    }
    for name, run in (("sklearn", theirs), ("jensen", mine)):
        row[name] = {key: value for key, value in run.items() if key != "parameters"}
    return row


def score(folder, run):
    return log_likelihood(folder, run["parameters"])


def growth(options):
    """Seconds of an iteration as n, d and K double, float32."""
    table = {}
    for name, sizes in {
        "rows": [(n, 16, 16) for n in (50_000, 100_000, 200_000)],
        "dims": [(50_000, d, 16) for d in (8, 16, 32, 64)],
        "components": [(50_000, 16, k) for k in (8, 16, 32, 64)],
    }.items():
        table[name] = []
        for n, d, k in sizes:
            with tempfile.TemporaryDirectory() as where:
                make(Path(where), n, d, k)
                run = child(options, who="step", folder=where, dtype="float32", holes="none")
            table[name].append({"n": n, "d": d, "k": k, "seconds": run["seconds"]})
    return table


def picture(table, path):
    """Seconds of an iteration against rows, dims and components, with the growth that arithmetic alone would give."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (name, letter) in zip(panels, {"rows": "n", "dims": "d", "components": "k"}.items(), strict=True):
        runs = table[name]
        sizes, seconds = [run[letter] for run in runs], [run["seconds"] for run in runs]
        flops = [run["n"] * run["k"] * (run["d"] * (run["d"] + 1) / 2 + run["d"] + 1) for run in runs]
        axes.loglog(sizes, seconds, "o-", label="measured")
        axes.loglog(sizes, [seconds[-1] * f / flops[-1] for f in flops], ":", label="n K p, through the last")
        fixed = ", ".join(f"{other} = {runs[0][other]:,}" for other in "ndk" if other != letter)
        axes.set_xlabel(f"{name} ({fixed})")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
    panels[0].set_ylabel("seconds an iteration")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=32)
    parser.add_argument("--components", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float64"])
    parser.add_argument("--missing", type=float)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(work(json.loads(options.job))))
        return
    table = {"n": options.rows, "d": options.dims, "k": options.components, "threads": options.threads}
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        make(folder, options.rows, options.dims, options.components)
        table["dtypes"] = {dtype: compared(options, folder, dtype) for dtype in options.dtypes}
        if options.missing:
            cases = {"complete": "none", "8 patterns": (options.missing, 8), "any pattern": (options.missing, 0)}
            table["missing"] = {
                name: child(options, who="step", folder=where, dtype="float32", holes=holes)
                for name, holes in cases.items()
            }
    if options.growth:
        table["growth"] = growth(options)
        if options.picture:
            picture(table["growth"], options.picture)
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
