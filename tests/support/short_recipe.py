"""A recipe that says what it must and nothing else."""

from typing import Any

RECIPE: dict[str, Any] = {
    "dataset": "digits",
    "teacher": "digits",
    "teacher_sampler": {"steps": 18},
    "objective": {"distributional": "softplus"},
    "images": 1000,
    "batch": 64,
    "snapshot_every": 300,
    "lr": {"generator": 1e-4, "discriminator": 1e-4},
    "ema": {"half_life": 500},
    "backbones": ["a", "b"],
}
