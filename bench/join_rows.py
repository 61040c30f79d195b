"""A join against brute force in float64, and against what else could do it, on the same cores in the same run.

python -m bench.join_rows                          # 20,000 x 200,000 x 384, top 10, --memory 512MB
python -m bench.join_rows --peers build/peers      # and faiss-cpu and scikit-learn, in an environment of their own

Every row is compared: ids, and ties by row. Peers get arrays in memory and write nothing; embedmill reads and writes
Parquet, and its search alone, on arrays as theirs, is timed too. Peers run on some of the left rows, for they take
long; what is compared is pairs a second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from schemas.join import Device, Precision
from similarity import kernel
from similarity.engine import engine_for
from similarity.kernel import Block, Wanted

SEED = 20261123
TOP_K = 10
_PEERS = ("faiss-cpu==1.15.1", "scikit-learn==1.9.1", "numpy==2.4.6")
_NAMES = ("embedmill join, whole process", "embedmill join, its own clock", "embedmill's search, arrays in memory")
_ENTRY = (sys.executable, "-c", "from producer.cli import main; main()")
_PEER = """
import sys, time, numpy as np
kind, threads, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
left, right = np.load(f"{folder}/peer.npy"), np.load(f"{folder}/right.npy")
if kind == "faiss":
    import faiss
    faiss.omp_set_num_threads(threads)
    begun = time.perf_counter()
    index = faiss.IndexFlatIP(right.shape[1]); index.add(right); index.search(left, 10)
else:
    from sklearn.neighbors import NearestNeighbors
    begun = time.perf_counter()
    NearestNeighbors(n_neighbors=10, algorithm="brute", metric="cosine", n_jobs=threads).fit(right).kneighbors(left)
print(time.perf_counter() - begun)
"""


def main() -> None:
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-") as name:
        folder = Path(name)
        left, right = _vectors(asked.left, asked.right, asked.dim)
        _write(folder / "left.parquet", left, "l")
        _write(folder / "right.parquet", right, "r")
        np.save(folder / "right.npy", right)
        np.save(folder / "peer.npy", left[: asked.peer_rows])
        rates: dict[str, list[float]] = {name: [] for name in _NAMES}
        for run in range(asked.runs):
            whole, own, peak = _join(folder, asked, run)
            for name, seconds in zip(_NAMES, (whole, own, _search(left, right, asked)), strict=True):
                rates[name].append(asked.left * asked.right / seconds / 1e6)
            for kind in ("faiss", "sklearn") if asked.peers else ():
                rates.setdefault(kind, []).append(_peer(kind, folder, asked))
            for dtype in (torch.float32, torch.int8):
                rates.setdefault(f"products of {dtype} alone", []).append(_peak(dtype, asked))
        wrong = _wrong(folder / "out-0", left, right)
        print(f"{asked.left:,} x {asked.right:,} x {asked.dim}, top {TOP_K}, {asked.threads} threads, {asked.memory}")
        print(f"rows that differ from brute force in float64: {wrong} of {asked.left:,}; peak RSS {peak:,.0f} MiB")
        base = statistics.median(rates[_NAMES[0]])
        print("\n| | million pairs/s | embedmill is so many times as fast |\n| --- | --- | --- |")
        for what, found in rates.items():
            print(f"| {what} | {statistics.median(found):,.0f} | {base / statistics.median(found):.2f} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--left", type=int, default=20_000)
    parser.add_argument("--right", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--memory", default="512MB")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--funnel", default="")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", default="", help="a folder for the peers' environment; made if it is not there")
    parser.add_argument("--peer-rows", type=int, default=2_000)
    return parser.parse_args()


def _vectors(left: int, right: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around 500 centres, as texts on 500 subjects are; one right row in fifty is a copy of another."""
    rng = np.random.default_rng(SEED)
    centres = rng.normal(size=(500, dim)).astype(np.float32)

    def some(count: int) -> np.ndarray:
        vectors = centres[rng.integers(0, 500, count)] + 1.2 * rng.normal(size=(count, dim)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    one, other = some(left), some(right)
    other[right - right // 50 :] = other[: right // 50]
    return one, other


def _write(path: Path, vectors: np.ndarray, prefix: str) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"id": [f"{prefix}{n:08d}" for n in range(len(vectors))], "embedding": column})
    pq.write_table(table, path, row_group_size=8192, compression="zstd", compression_level=1)


def _join(folder: Path, asked: argparse.Namespace, run: int) -> tuple[float, float, float]:
    """Seconds of the whole process and by its own clock, and the most memory that it took up, MiB."""
    words = ["join", str(folder / "left.parquet"), str(folder / "right.parquet"), "-o", str(folder / f"out-{run}")]
    words += ["--top-k", str(TOP_K), "--memory", asked.memory, "--threads", str(asked.threads), "--json"]
    words += ["--precision", asked.precision, "--funnel", asked.funnel]
    begun = time.perf_counter()
    with subprocess.Popen([*_ENTRY, *words], stdout=subprocess.PIPE, text=True) as process:
        peak = 0.0
        while process.poll() is None:  # the kernel's own ru_maxrss would be that of this process, from before the exec
            peak = _high_water_mb(process.pid) or peak
            time.sleep(0.05)
        took = time.perf_counter() - begun
        assert process.returncode == 0 and process.stdout is not None
        return took, float(json.loads(process.stdout.read())["seconds"]), peak


def _search(left: np.ndarray, right: np.ndarray, asked: argparse.Namespace) -> float:
    """Seconds of what the peers do: arrays in memory, nothing read or written."""
    engine = engine_for(Device.CPU, Precision(asked.precision), asked.threads)
    begun = time.perf_counter()
    blocks = (Block(at, right[at : at + 8192]) for at in range(0, len(right), 8192))
    kernel.join(Block(0, left), blocks, Wanted(top_k=TOP_K), engine=engine)
    return time.perf_counter() - begun


def _high_water_mb(pid: int) -> float:
    """The most memory that a process has taken up so far, MiB; 0 where it has ended."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return next((float(line[1]) / 1024 for line in lines if line[0] == "VmHWM:"), 0.0)


def _peer(kind: str, folder: Path, asked: argparse.Namespace) -> float:
    """Million pairs a second."""
    python = Path(asked.peers) / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", asked.peers], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *_PEERS], check=True)
    threads = {"OMP_NUM_THREADS": str(asked.threads), "OPENBLAS_NUM_THREADS": str(asked.threads)}
    words = [str(python), "-c", _PEER, kind, str(asked.threads), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | threads)
    return float(asked.peer_rows * asked.right) / float(done.stdout) / 1e6


def _peak(kind: torch.dtype, asked: argparse.Namespace) -> float:
    """Million pairs a second that plain products reach, nothing read, kept or written: one thread of torch on each."""
    a, b = (torch.randint(-127, 128, (rows, asked.dim)).to(kind) for rows in (1024, 4096))
    multiply = torch._int_mm if kind is torch.int8 else torch.mm  # type: ignore[attr-defined, unused-ignore]

    def work(times: int) -> None:
        out = torch.empty(len(a), len(b), dtype=torch.int32 if kind is torch.int8 else kind)
        for _ in range(times):
            multiply(a, b.T, out=out)

    torch.set_num_threads(1)
    with ThreadPoolExecutor(asked.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(work, [2] * asked.threads))
        begun = time.perf_counter()
        list(pool.map(work, [40] * asked.threads))
        return float(40 * asked.threads * len(a) * len(b) / (time.perf_counter() - begun) / 1e6)


def _wrong(out: Path, left: np.ndarray, right: np.ndarray) -> int:
    """Left rows whose ids are not those of brute force in float64, rounded to float32, ties by row."""
    table = pq.read_table(sorted((out / "data").glob("*.parquet")))
    found = np.array([int(name[1:]) for name in table["right_id"].to_pylist()]).reshape(len(left), TOP_K)
    wide = right.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    wrong = 0
    for at in range(0, len(left), 250):
        some = left[at : at + 250].astype(np.float64)
        scores = ((some / np.linalg.norm(some, axis=1, keepdims=True)) @ wide.T).astype(np.float32)
        for row, line in enumerate(scores):
            near = np.flatnonzero(line >= np.partition(line, -TOP_K)[-TOP_K])
            best = near[np.lexsort((near, -line[near]))][:TOP_K]
            wrong += not np.array_equal(best, found[at + row])
    return wrong


if __name__ == "__main__":
    main()
