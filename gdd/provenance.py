"""Which code, which packages and which machine made a number."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def git_revision() -> str:
    """Return the revision of the checkout this package runs from, `-dirty` if changed, or `unknown`."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return date, versions, revision and device as JSON values; host names stay out of what is published."""
    import torch

    gpu = torch.device(device).type == "cuda"

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "revision": git_revision(),
        "gdd": importlib.metadata.version("gdd"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "device": torch.cuda.get_device_name(device) if gpu else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }
