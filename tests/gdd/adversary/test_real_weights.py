"""EfficientNet-lite0 as a backbone, with its real ImageNet weights: two photographs, and a run through it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from real_weights import real_efficientnet
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional

from gdd.adversary.backbones import Backbone, published_backbone
from gdd.adversary.published_weights import load_class_embedding
from gdd.config.architecture import Architecture
from gdd.config.recipe import BackboneStatistics, Ema, Recipe
from gdd.data.image_array import ImageArray, to_signed, write
from gdd.distill.distill import Inputs, distill, prepare
from gdd.experiments import Experiments
from gdd.networks.checkpoint import save_network
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import seeded_weights

pytestmark = pytest.mark.slow

PALACE, DAISY = 698, 985  # of ImageNet's classes


def photographs() -> Tensor:
    """Return their middles, [2, 3, 427, 427] in [-1, 1]."""
    return to_signed(np.stack(load_sample_images().images)[:, :, 106:533])


def backbone(statistics: BackboneStatistics = "published") -> Backbone:
    return published_backbone("tf_efficientnet_lite0", real_efficientnet(), 0, statistics)


@torch.no_grad()
def test_what_it_sees_in_photographs_is_right() -> None:
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    whole.load_state_dict(real_efficientnet(), strict=False)
    last = backbone()(photographs())[-1]
    logits = whole.forward_head(whole.bn2(whole.conv_head(last)))
    assert logits.argmax(1).tolist() == [PALACE, DAISY]


@torch.no_grad()
def test_the_releases_statistics_move_its_taps() -> None:
    """By as much as the release's own code does, which was measured on another photograph."""
    published, moved = (net(photographs()) for net in (backbone(), backbone("release")))
    for one, other, expected in zip(published, moved, (0.26, 0.32, 0.31, 0.37), strict=True):
        assert float((one - other).norm() / one.norm()) == pytest.approx(expected, abs=0.06)
        assert functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.9


EMBEDDINGS = Path(__file__).resolve().parents[4] / "shared" / "real" / "stylegan-xl-tf_efficientnet_lite0.pkl"
NAME = "tf_efficientnet_lite0"


def recipe_of(papers: Experiments) -> Recipe:
    """CIFAR-10's class-conditional recipe: two steps of two groups, R1 in the second."""
    published = papers.find("cifar10-cond", "gdd-i")
    small = {
        "images": 8,
        "batch": 4,
        "snapshot_every": 8,
        "backbones": (NAME,),
        "heads": published.heads.model_copy(
            update={"norm_group": 2, "channels": 8, "projection_channels": 8}
        ),
        "r1": published.r1.model_copy(update={"every": 1}),
        "ema": Ema(half_life=8),
        "precision": "float32",
    }
    return Recipe.model_validate(dict(published) | small, strict=False)


def test_a_class_conditional_run_starts_from_the_published_embeddings(
    papers: Experiments, tmp_path: Path
) -> None:
    if not EMBEDDINGS.is_file():
        pytest.skip("the published class embeddings are not part of this checkout")
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    write(tmp_path / "data", images, np.arange(16) % 10, {"name": "cifar10"})
    tiny = {"model_channels": 8, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}
    with seeded_weights(0):
        teacher = Denoiser(Architecture(model_type="SongUNet", img_resolution=32, label_dim=10, **tiny))
        with torch.no_grad():  # fresh networks give almost nothing: their last layers start at zero
            for parameter in teacher.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    save_network(tmp_path / "teacher.safetensors", teacher)
    torch.save(real_efficientnet(), tmp_path / "lite0.pth")
    inputs = Inputs(
        tmp_path / "teacher.safetensors",
        tmp_path / "data",
        {NAME: tmp_path / "lite0.pth"},
        class_embedding=EMBEDDINGS,
    )
    recipe, table = recipe_of(papers), load_class_embedding(EMBEDDINGS, 1000)
    student = prepare(recipe, 0, inputs, ImageArray.open(inputs.data), tmp_path / "state")
    assert student.discriminator
    embeddings = [
        value for name, value in student.discriminator.heads.named_parameters() if "embed.weight" in name
    ]
    assert len(embeddings) == 4
    assert all(torch.equal(embedding, table[:10]) for embedding in embeddings)

    distill(tmp_path / "run", recipe, 0, inputs)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["inputs"]["class embedding"].startswith("c109f9a8")
    assert (facts["images"], facts["nonfinite_steps"]) == (8, 0)
    (line, *_) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line[key]) for key in ("loss_generator", "loss_discriminator"))
    assert (tmp_path / "run" / "snapshots" / "000000008.safetensors").is_file()
