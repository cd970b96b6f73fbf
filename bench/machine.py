"""What a result was measured on."""

import datetime
import os
import platform
from pathlib import Path

import torch

import posenc_ext

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def caches() -> dict[str, int]:
    """Bytes of each cache that the first core sees, innermost first."""
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        kind = (index / "type").read_text().strip()
        if kind != "Instruction":
            size = (index / "size").read_text().strip().removesuffix("K")
            sizes[f"L{(index / 'level').read_text().strip()}"] = int(size) << 10
    return sizes


def last_cache() -> int:
    return max(caches().values(), default=32 << 20)


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def facts() -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches(),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "posenc_ext": posenc_ext.__version__,
        "cpu_level": posenc_ext._C.cpu_level(),
        "build": posenc_ext._C.build_info(),
    }
