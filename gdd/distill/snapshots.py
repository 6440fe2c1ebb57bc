"""The snapshots of a run: weights of the generator's average, and its images from fixed latents."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from gdd.data.image_array import quantise
from gdd.distill.generate import SAMPLES, generate
from gdd.files import write_npz
from gdd.networks.checkpoint import save_network
from gdd.networks.preconditioning import OneStepGenerator


def write_snapshot(folder: Path, images: int, average: OneStepGenerator, description: dict[str, Any]) -> None:
    """Write the weights, with `description` in their header, and `SAMPLES` images at an image count."""
    path = folder / "snapshots" / f"{images:09d}.safetensors"
    save_network(path, average, images=images, **description)
    # A diverged network still leaves its snapshot; that it diverged is the evaluation's to say.
    samples = quantise(generate(average, 0, SAMPLES).nan_to_num())
    write_npz(folder / "samples" / f"{images:09d}.npz", images=samples.cpu().numpy())


def keep_only(folder: str | Path, images: Collection[int]) -> list[int]:
    """Remove the snapshots of the run in `folder` but those at these image counts; return which are gone.

    For recipes with `keep: reported`, once the run has been evaluated. Samples and metrics of the others
    stay. Both links of a snapshot are removed; a call that was interrupted can be repeated.
    """
    removed = set()
    for place in (Path(folder) / "snapshots", Path(folder) / "state" / "snapshots"):
        for path in sorted(place.glob("*.safetensors")):
            if int(path.stem) not in images:
                path.unlink()
                removed.add(int(path.stem))
    return sorted(removed)
