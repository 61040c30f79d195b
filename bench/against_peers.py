"""embedmill against what anyone would use instead: one manifest, one model, the same cores, whole processes.

python -m bench.against_peers --rows 2000 --images 200 --runs 1 --peers encode     # a quick look
python -m bench.against_peers --environment build/peers                            # 20,000 texts, 1,000 pictures

Texts have 2-400 words, log-uniform; pictures are JPEGs of 1280 x 960. The models are MiniLM, and a CLIP B/32 of random
weights in the hub's layout. Runs alternate; each is timed from its start to its end, start-up, loading of the model
and writing of Parquet included. Every peer's vectors are compared with those of plain `encode`. With --duplicates a
share of the rows repeats others, as a case of its own. The peers are those of bench/peer.py, in an environment of
their own, made where it is not there.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from bench.peer_data import clip_folder, minilm_folder, pictures, texts

_PR_SET_CHILD_SUBREAPER = 36
_ENTRY = (sys.executable, "-c", "from producer.cli import main; main()")
_PEERS = (
    "torch==2.13.0",
    "sentence-transformers==6.2.0",
    "transformers==5.23.0",
    "pillow==13.0.0",
    "numpy==2.4.6",
    "ray[data]==2.60.0",
    "daft==0.7.26",
    "onnx==1.23.2",
    "onnxscript==0.7.2",
    "onnxruntime==1.32.0",
)
#: fastembed asks for an older huggingface_hub than sentence-transformers takes, and works with the newer one.
_WITHOUT_DEPENDENCIES = ("fastembed==0.9.1", "mmh3==5.3.1", "py-rust-stemmers==0.1.8", "loguru==0.7.3")
_NAMES = {
    "embedmill": "**embedmill run**",
    "encode": "`SentenceTransformer.encode`",
    "encode32": "the same in float32",
    "pool": "its multi-process pool",
    "ray": "Ray Data",
    "daft": "Daft",
    "fastembed": "fastembed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What all of them embed."""

    title: str
    folder: Path
    manifest: Path
    model: Path
    model_name: str  # as embedmill is told
    rows: int
    dim: int
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took."""

    seconds: float
    cpu_seconds: float  # of all its processes: what an idle machine would show where others were in the way


def main() -> None:
    asked = arguments()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-") as name:
        compare(_cases(Path(name), asked), asked)


def compare(cases: Iterable[Case], asked: argparse.Namespace) -> None:
    """Run all of them on each case, and print a table of each."""
    for case in cases:
        peers = [peer for peer in asked.peers if not (case.pictures and peer == "fastembed")]
        _report(case, _measured(case, peers, asked), asked)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What is asked for, by `words` or by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=20_000, help="texts; 0: none")
    parser.add_argument("--images", type=int, default=1_000, help="pictures; 0: none")
    parser.add_argument("--duplicates", type=float, nargs="*", default=[0.1, 0.3], help="shares, a case for each")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", nargs="*", default=["encode", "pool", "ray", "daft", "fastembed"])
    parser.add_argument("--environment", default="build/peers", help="the peers' environment; made if it is not there")
    parser.add_argument("--options", nargs="*", default=[], help="further words for `embedmill run`")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args(words)


def _cases(folder: Path, asked: argparse.Namespace) -> Iterable[Case]:
    if asked.rows:
        minilm = minilm_folder()
        for share in (0.0, *asked.duplicates):
            place = folder / f"texts-{share:g}"
            manifest = texts(place, asked.rows, duplicates=share, model=minilm)
            title = f"{asked.rows:,} texts{_share(share)}, MiniLM fp32"
            common = {"folder": place, "manifest": manifest, "rows": asked.rows}
            yield Case(title=title, model=minilm, model_name="minilm", dim=384, **common)
    if asked.images:
        clip = clip_folder(folder / "clip-b32")
        for share in (0.0, *asked.duplicates):
            place = folder / f"pictures-{share:g}"
            manifest = pictures(place, asked.images, duplicates=share)
            title = f"{asked.images:,} JPEGs of 1280 x 960{_share(share)}, CLIP B/32 (random weights) fp32"
            common = {"folder": place, "manifest": manifest, "rows": asked.images, "pictures": True}
            yield Case(title=title, model=clip, model_name=str(clip), dim=512, **common)


def _share(share: float) -> str:
    return f", {share:.0%} of them repeated" if share else ""


def _measured(case: Case, peers: list[str], asked: argparse.Namespace) -> dict[str, list[tuple[Cost, Path]]]:
    """Seconds and output of each run of each, the runs alternating."""
    python = _environment(Path(asked.environment)) if peers else Path(sys.executable)
    case.folder.mkdir(parents=True, exist_ok=True)
    if "fastembed" in peers:
        _peer(python, "export", case, asked, case.folder)
    found: dict[str, list[tuple[Cost, Path]]] = {}
    for run in range(asked.runs):
        for name in ("embedmill", *peers):
            out = case.folder / f"{name}-{run}"
            is_ours = name == "embedmill"
            took = _embedmill(case, asked, out) if is_ours else _peer(python, name, case, asked, out)
            if took is not None:
                found.setdefault(name, []).append((took, out))
                print(
                    f"{case.title}: run {run}, {name}: {took.seconds:.1f} s, CPU {took.cpu_seconds:.1f} s",
                    file=sys.stderr,
                )
    return found


def _embedmill(case: Case, asked: argparse.Namespace, out: Path) -> Cost | None:
    words = ["run", str(case.manifest), "--model", case.model_name, "--out", str(out), "--quiet", *asked.options]
    words += ["--dtype", asked.dtype]
    words += ["--workers", str(asked.cores)] if asked.device == "cpu" else []
    return _timed([*_ENTRY, *words], {"EMBEDMILL_DEVICE": asked.device})


def _peer(python: Path, name: str, case: Case, asked: argparse.Namespace, out: Path) -> Cost | None:
    job = {
        "manifest": str(case.manifest),
        "model": str(case.model),
        "out": str(out),
        "cores": asked.cores,
        "device": asked.device,
        "dtype": asked.dtype,
        "dim": case.dim,
        "pictures": case.pictures,
        "onnx": str(case.folder / "onnx"),
    }
    told = case.folder / f"{name}.json"
    told.write_text(json.dumps(job))
    one_thread = {"OMP_NUM_THREADS": "1"} if name in ("pool", "ray", "daft") else {}
    return _timed([str(python), str(Path(__file__).with_name("peer.py")), name, str(told)], one_thread)


def _timed(words: list[str], environ: dict[str, str]) -> Cost | None:
    """What a whole process and its children cost; None, and its last words on stderr, where it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | environ)
    took = time.perf_counter() - begun
    _reap()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode == 0:
        return Cost(took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"{words[-2:]} failed: {done.stderr[-2000:]}", file=sys.stderr)
    return None


def adopt_orphans() -> None:
    """Have the processes that others leave behind become this one's children: their CPU seconds count (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    """Wait for the orphans of a run, for up to ten seconds."""
    deadline = time.monotonic() + 10.0
    with contextlib.suppress(ChildProcessError):  # there are none
        while time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            time.sleep(0.0 if pid else 0.05)


def _environment(folder: Path) -> Path:
    """The peers' own Python."""
    python = (folder / "bin" / "python").absolute()
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *_PEERS], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *_WITHOUT_DEPENDENCIES], check=True)
    return python


def _report(case: Case, found: dict[str, list[tuple[Cost, Path]]], asked: argparse.Namespace) -> None:
    truth = _vectors((found.get("encode") or found["embedmill"])[0][1])
    seconds = {name: statistics.median(cost.seconds for cost, _ in runs) for name, runs in found.items()}
    cpu = {name: statistics.median(cost.cpu_seconds for cost, _ in runs) for name, runs in found.items()}
    print(f"\n{case.title}; {asked.cores} cores, medians of {asked.runs} runs, whole processes\n")
    print("| | s | rows/s | embedmill is so many times as fast | CPU s | and by CPU | least cosine | apart |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, runs in found.items():
        cosine, apart = _closeness(truth, _vectors(runs[0][1]))
        faster, cheaper = (f"{those[name] / those['embedmill']:.2f}" for those in (seconds, cpu))
        figures = f"{seconds[name]:.1f} | {case.rows / seconds[name]:,.1f} | {faster} | {cpu[name]:.1f} | {cheaper}"
        print(f"| {_NAMES[name]} | {figures} | {cosine:.7f} | {apart:.0e} |", flush=True)


def _vectors(out: Path) -> dict[str, np.ndarray]:
    """The vectors of a job, a file or a folder of files, by id."""
    files = sorted((out / "data").rglob("*.parquet")) if (out / "data").is_dir() else None
    if files is None:
        files = sorted(out.rglob("*.parquet")) if out.is_dir() else [out]
    table = ds.dataset([str(path) for path in files], format="parquet").to_table(["id", "embedding"])
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    return dict(zip(table["id"].to_pylist(), vectors, strict=True))


def _closeness(truth: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> tuple[float, float]:
    """The least cosine, and the most that a number is apart; of no row less than all."""
    if truth.keys() != found.keys():
        return float("nan"), float("nan")
    one, other = np.stack([truth[name] for name in truth]), np.stack([found[name] for name in truth])
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return float(cosines.min()), float(np.abs(one - other).max())


if __name__ == "__main__":
    main()
