"""What is there to compute on: cards, their driver, and what connects them."""

from __future__ import annotations

import re
import shutil
import subprocess

import torch

QUERY = "name,memory.total,driver_version,pcie.link.gen.max,pcie.link.width.max"


def card_gb(device: torch.device) -> int:
    """Return a GPU's memory in GB as cards are sold: the whole GiB above what it has."""
    return -int(-torch.cuda.get_device_properties(device).total_memory // 2**30)


def slug(name: str) -> str:
    """Return a card's name as that of a file."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def cards() -> list[str]:
    """Return a line for every GPU that the driver shows, whether this process may use it or not."""
    found = []
    for index, line in enumerate(_nvidia_smi(f"--query-gpu={QUERY}", "--format=csv,noheader").splitlines()):
        name, memory, driver, generation, width = (*map(str.strip, line.split(",")), *5 * ["?"])[:5]
        found.append(f"GPU {index}: {name}, {memory}, driver {driver}, PCIe {generation} x{width}")
    return found


def driver() -> str:
    lines = _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return lines[0].strip() if lines else "unknown"


def interconnect() -> str:
    """Return the kinds of links between GPUs in nvidia-smi's words: NV<n> is NVLink, others go by PCIe."""
    rows = [line.split() for line in _nvidia_smi("topo", "-m").splitlines() if re.match(r"GPU\d+\s", line)]
    links = {
        row[column + 1]
        for line, row in enumerate(rows)
        for column in range(len(rows))
        if column != line and len(row) > column + 1
    }
    return ", ".join(sorted(links)) or "unknown"


def _nvidia_smi(*arguments: str) -> str:
    """Return what nvidia-smi prints; nothing where it is not there, fails or hangs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout
