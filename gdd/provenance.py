"""Which code, which packages and which machine made a number."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any


def git_revision() -> str:
    """Return the revision of the checkout this package runs from, `-dirty` if changed, or `unknown`."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment() -> dict[str, Any]:
    """Return versions, revision, host and device as plain JSON values."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return {
        "revision": git_revision(),
        "gdd": importlib.metadata.version("gdd"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "host": socket.gethostname(),
        "device": device,
        "threads": torch.get_num_threads(),
    }
