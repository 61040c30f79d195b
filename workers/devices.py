"""Devices: what this machine computes with, found without loading torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Refused
from schemas.sizes import CPU, require_size, size_of_device

#: What a device keeps for itself and for batches, beside models: CUDA's context and activations.
_GPU_RESERVE_GIB = 2.5
#: Of the host's memory, what models may take up: the rest is decoded media, libraries, and the system's.
_HOST_SHARE = 0.5
_QUERY = ["--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that a worker computes on."""

    name: str  # as torch calls it: cpu, cuda:0
    size: str  # of schemas.sizes
    gib: float  # of its memory

    def model_mb(self, workers: int) -> int:
        """MiB that the models of one of its `workers` may take up."""
        free = self.gib * _HOST_SHARE if self.name == CPU else max(1.0, self.gib - _GPU_RESERVE_GIB)
        return int(free * 1024 / max(1, workers))


def find_devices(wanted: str = "auto", *, size: str = "") -> list[Device]:
    """The devices that `wanted` says: `auto` (all GPUs, else the processor), `cpu`, `cuda`, or `cuda:N`.

    `size` is taken for theirs, whatever their memory. Raises Refused for a device that is not there.
    """
    if size:
        require_size(size)
    gpus = [] if wanted == CPU else _gpus()
    chosen = gpus if wanted in ("cuda", "auto") else [gpu for gpu in gpus if gpu.name == wanted]
    if not chosen and wanted not in ("auto", CPU):
        there = ", ".join(gpu.name for gpu in gpus) or "no GPU that nvidia-smi shows"
        raise Refused(f"--device {wanted} is not there; this machine has cpu and {there}")
    chosen = chosen or [Device(name=CPU, size=CPU, gib=host_gib())]
    return [Device(name=device.name, size=size or device.size, gib=device.gib) for device in chosen]


def host_gib() -> float:
    """GiB of memory that this process may use: the machine's, or what its container is given."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit: "max", or no such file
            continue
    return total / 2**30


def _gpus() -> list[Device]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        told = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer has no devices to give
        return []
    listed = [[part.strip() for part in line.split(",")] for line in told.splitlines() if line.count(",") == 2]
    return [_gpu(number, float(mib) / 1024) for number, mib in enumerate(_visible(listed))]


def _visible(listed: list[list[str]]) -> list[str]:
    """The memory of the GPUs that this process may use, in the order that torch counts them (by PCI bus)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [mib for _, _, mib in listed]
    found = []
    for name in (part.strip() for part in visible.split(",")):
        match = [mib for index, uuid, mib in listed if name and (name == index or uuid.startswith(name))]
        if not match:  # CUDA ends its list at the first name that is none
            break
        found.append(match[0])
    return found


def _gpu(number: int, gib: float) -> Device:
    return Device(name=f"cuda:{number}", size=size_of_device(gib), gib=gib)
