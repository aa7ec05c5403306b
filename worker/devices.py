"""What a worker computes with: GPUs by `nvidia-smi`, else the processor by /proc. TensorFlow is not asked: it must not be loaded here."""

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from core.config import Settings
from core.errors import ThawError
from worker.lifeline import child_environment

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class GpuUnknown(ThawError):
    """A GPU was named that is not there."""


@cache
def gpus() -> tuple[dict[str, Any], ...]:
    """`{"name", "kind": "gpu", "memory_bytes"}` for each GPU that NVIDIA's driver shows; empty without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.rsplit(",", 1) for line in said.splitlines() if "," in line]
    return tuple(
        {"name": name.strip(), "kind": "gpu", "memory_bytes": int(size) * 1024 * 1024}
        for name, size in rows
        if size.strip().isdigit()
    )


def choose_gpu(number: int) -> None:
    """Let this process's trainers see one GPU alone, by its number in `nvidia-smi` (from 0).

    Raises:
        GpuUnknown: there is no such GPU.
    """
    found = gpus()
    if not 0 <= number < len(found):
        allowed = f"0 to {len(found) - 1}" if found else "none: nvidia-smi shows no GPU here"
        raise GpuUnknown(f"There is no GPU {number}. Allowed: {allowed}.")
    os.environ.update(_one(number))


def hide_gpus() -> dict[str, str]:
    """Let TensorFlow in this process see no GPU: they are for trainers. An operator's own CUDA_VISIBLE_DEVICES stays as it is.

    Returns:
        The environment of a process that has to see what a trainer sees: the first GPU alone, where there is one.
    """
    trainers = child_environment()
    if _VISIBLE not in trainers and gpus():
        trainers |= _one(0)
    os.environ.setdefault(_VISIBLE, "-1")
    return trainers


def _one(number: int) -> dict[str, str]:
    # CUDA may count by speed; nvidia-smi counts by bus
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", _VISIBLE: str(number)}


def memory_bytes() -> int:
    """Memory of this machine, or of the container when that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return total
    return min(total, limit)


def processor_name() -> str:
    """The processor's name as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def devices(settings: Settings) -> list[dict[str, Any]]:
    """Everything this worker could compute with: `{"name", "kind": "gpu" | "cpu", "memory_bytes", ...}`."""
    cpu = {"name": processor_name(), "kind": "cpu", "memory_bytes": memory_bytes(), "cores": settings.cores}
    return [*gpus(), cpu]
