"""A configuration and made-up numbers for tables of it."""

from __future__ import annotations

import hashlib

SETTING = """
title: {title}
dataset: digits
teacher: digits
teacher_sampler: {{steps: 18}}
recipe:
  images: 28_800
  batch: 64
  snapshot_every: 3_200
  lr: {{generator: 2e-4, discriminator: 1e-3}}
  ema: {{half_life: 5_000}}
  backbones: [digits-classifier, digits-random]
methods: {{gdd-i: {{lr: {{generator: 1e-3}}}}}}
evaluation: {{extractor: digits-judge, pixels: true, samples: 2_000, blocks: 3, also_at: [9_600]}}
notes: [Compare with nothing elsewhere.]
"""
TEACHER = """
title: {}
dataset: digits
architecture: {{model_type: SongUNet, img_resolution: 8, img_channels: 1, model_channels: 32,
  channel_mult: [1], num_blocks: 1, attn_resolutions: [], embedding_type: positional, encoder_type: standard}}
training: {{images: 1_280, batch: 128, lr: 2e-3, ema: {{half_life: 20_000}}}}
"""
NETWORK = "{{title: {0}, dataset: digits, architecture: plain, width: 32, steps: {1}, seed: 1}}"
METHOD = "{{title: {0}, colour: '{1}', marker: {2}, objective: {3}, freeze: {4}}}"
TABLES = ("objectives", "frozen-layers")
TARGET = "{title: One-step generators in miniature, page: index, tables: [objectives, frozen-layers]}"
# Two teachers and three seeds a row: what has a training spread. The FIDs are those of the first teacher's
# seeds, then of the second's.
REPEATED = """
title: Repeated
setting: digits
teachers: [digits, digits-b]
seeds: [0, 1, 2]
rows:
  Teacher: {teacher_steps: 18}
  Direct: {method: direct}
  GDD: {method: gdd}
  GDD-I: {method: gdd-i}
  Both: {method: gdd-direct}
columns: [fid, fid_difference, best_fid, best_fid_fresh, final_fid_fresh, seconds]
curve: fid
"""
FIDS = {
    "Teacher": (0.7, 0.8),
    "Direct": (1.5, 1.7, 1.6, 1.6, 1.8, 1.7),
    "GDD": (0.5, 0.6, 0.7, 0.6, 0.7, 0.8),
    "GDD-I": (0.45, 0.55, 0.65, 0.55, 0.65, 0.75),
    "Both": (1.0, 1.1, 1.2, 1.1, 1.2, 1.3),
}
# The tests' own, so that the numbers of the repository's configuration may change.
CONFIG = {
    "datasets/digits": "{title: D, source: digits, resolution: 8, channels: 1, images: 1797, classes: 10}",
    "features/digits-classifier": NETWORK.format("Classifier", 500),
    "features/digits-judge": NETWORK.format("Judge", 500),
    "features/digits-random": NETWORK.format("Random", 0),
    "teachers/digits": TEACHER.format("EDM teacher of the digits"),
    "teachers/digits-b": TEACHER.format("Another teacher"),
    "settings/digits": SETTING.format(title="Digits 8x8"),
    "settings/other": SETTING.format(title="Other digits"),
    "methods/gdd": METHOD.format("GDD", "#0072b2", "o", "{distributional: softplus}", "none"),
    "methods/gdd-i": METHOD.format("GDD-I", "#d55e00", "s", "{distributional: softplus}", "conv"),
    "methods/direct": METHOD.format("Direct imitation", "#009e73", "D", "{instance: direct}", "none"),
    "methods/gdd-direct": METHOD.format(
        "GDD + direct", "#56b4e9", "v", "{distributional: softplus, instance: direct}", "none"
    ),
    "ablations/objectives": """
title: Instance-based against distributional loss
caption: To imitate, or to fool.
setting: digits
rows:
  Teacher, 18 steps: {teacher_steps: 18}
  Teacher, 1 step: {teacher_steps: 1}
  Direct imitation: {method: direct}
  GDD: {method: gdd}
  GDD-I: {method: gdd-i}
columns: [evaluations, fid, precision, recall, pixel_fid, pixel_precision, pixel_recall, nearest, seconds]
curve: fid
claims:
  - {better: [GDD, GDD-I], than: Direct imitation, in: fid}
  - {better: GDD, than: GDD-I, in: fid}
""",
    "ablations/frozen-layers": "{title: Frozen layers, setting: digits, curve: fid, "
    "rows: {GDD: {method: gdd}, GDD-I: {method: gdd-i}}, "
    "columns: [trainable, fid, precision, recall, pixel_fid, seconds]}",
}
# FID, precision, recall, pixel FID, pixel precision, pixel recall, nearest; the spread of FID over latents
NUMBERS: dict[str, tuple[float, ...]] = {
    "steps18": (0.73, 0.66, 0.93, 0.14, 0.81, 0.90, 1.02, 0.06),
    "steps1": (135.0, 0.84, 0.0, 16.5, 0.10, 0.0, 1.90, 0.40),
    "direct": (1.50, 0.56, 0.92, 0.19, 0.70, 0.91, 1.05, 0.08),
    "gdd": (0.50, 0.76, 0.70, 1.60, 0.72, 0.66, 0.94, 0.05),
    "gdd-direct": (0.60, 0.74, 0.73, 1.70, 0.71, 0.68, 0.93, 0.04),
    "gdd-i": (0.31, 0.74, 0.73, 1.70, 0.71, 0.68, 0.93, 0.04),
}
KEYS = ("fid", "precision", "recall", "pixel_fid", "pixel_precision", "pixel_recall", "nearest")
FLOOR = dict(zip(KEYS, (0.28, 0.88, 0.89, 0.07, 0.85, 0.86, 1.0), strict=True))
SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("data", "digits", "digits-b")}
PROVENANCE = {
    "samples": 2000,
    "latent_seed": 0,
    "dataset": "digits",
    "dataset_sha256": SHA["data"],
    "reference_images": 1797,
    "extractor": "digits-judge",
    "extractor_sha256": hashlib.sha256(b"digits-judge").hexdigest(),
    "revision": "c" * 40,
    "date": "2026-01-31",
}
REFERENCES = {
    name: {
        "dataset": "digits",
        "dataset_sha256": SHA["data"],
        "resolution": 8,
        "count": 1797,
        "sha256": hashlib.sha256(f"reference of {name}".encode()).hexdigest(),
        "extractor": "classifier",
        "extractor_sha256": hashlib.sha256(name.encode()).hexdigest(),
    }
    for name in ("digits-judge", "pixels")
}
