"""What a run ran on, for its result and its reproduction."""

import os
import platform
from pathlib import Path

import keras
import numpy as np
import PIL
import sklearn
import tensorflow as tf

from worker.training.features import processor_class
from worker.training.gpus import set_up_gpus


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "pillow": PIL.__version__,
    }


def device() -> str:
    """The device that trains: the first GPU's name, or `CPU`."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))


def machine(threads: int, precision: str) -> dict[str, object]:
    """The machine as `result.json` has it."""
    return {
        "processor": processor_name(),
        "processor_class": processor_class(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device(),
        "system": f"{platform.system()} {platform.machine()}",
        "precision": precision,
        "versions": versions(),
    }


def processor_name() -> str:
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def prepare_tensorflow(threads: int) -> None:
    """Set what must be set before TensorFlow's first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    set_up_gpus()
