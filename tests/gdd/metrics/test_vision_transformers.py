"""CLIP and DINOv2: the published weights in timm's networks, behind the images' preparation."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from gdd.adversary.published_weights import WeightsProblem, fill
from gdd.errors import UserError
from gdd.metrics.vision_transformers import ClipExtractor, DinoExtractor, interpolate_positions


@pytest.fixture(autouse=True)
def _two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks have two blocks here instead of 12 and 24."""
    for kind in (ClipExtractor, DinoExtractor):
        monkeypatch.setitem(kind.options, "depth", 2)


class OpenAIBlock(nn.Module):
    """A block under OpenAI's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 8, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


class OpenAITower(nn.Module):
    """CLIP's image tower (arXiv:2103.00020), small, under OpenAI's names."""

    def __init__(self, width: int, patch: int, side: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(0.02 * torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList([OpenAIBlock(width), OpenAIBlock(width)])}
        )
        self.proj = nn.Parameter(0.03 * torch.randn(width, out))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([token, patches], dim=1) + self.positional_embedding)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj

    def named(self) -> dict[str, Tensor]:
        return {f"visual.{name}": value for name, value in self.state_dict().items()}


def write_archive(path: Path, state: dict[str, Tensor]) -> Path:
    """Write weights as OpenAI does: in half precision, as TorchScript."""
    root = nn.Module()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_parameter(leaf, nn.Parameter(value.half()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(path)
    return path


@torch.no_grad()
def test_openais_weights_in_timms_network_compute_the_same() -> None:
    torch.manual_seed(0)
    theirs = OpenAITower(16, 8, 16, 6).eval()
    for parameter in theirs.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    net = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=6,
        pre_norm=True, act_layer="quick_gelu", norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    fill(net, checkpoint_filter_fn(theirs.named(), net), ())
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(net.eval()(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_published_names_from_files(tmp_path: Path) -> None:
    with torch.device("meta"):
        published = timm.create_model("vit_large_patch14_dinov2", img_size=518, num_classes=0, depth=2)
    state = {name: 0.02 * torch.randn(tensor.shape) for name, tensor in published.state_dict().items()}
    torch.save({**state, "mask_token": torch.zeros(1, 1024)}, tmp_path / "dino.pth")
    clip = ClipExtractor(write_archive(tmp_path / "clip.pt", OpenAITower(768, 32, 224, 512).named()))
    for extractor in (clip, DinoExtractor(tmp_path / "dino.pth")):
        features = extractor(torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8))
        assert features.shape == (2, extractor.dimension)
        assert features.isfinite().all()


def test_positions_are_sampled_at_dinos_factor() -> None:
    # A plane stays a plane under bicubic interpolation inside; its slope shows the factor 16.1 / 37.
    side, new = 37, 16
    rows = torch.arange(side, dtype=torch.float32).repeat_interleave(side)
    positions = torch.cat([torch.tensor([-5.0]), rows])[None, :, None]
    found = interpolate_positions(positions, new)
    assert found.shape == (1, 1 + new**2, 1)
    assert found[0, 0, 0] == -5  # the class token's
    grid = found[0, 1:, 0].reshape(new, new)
    expected = (torch.arange(new) + 0.5) * side / (new + 0.1) - 0.5
    # PyTorch's filter bends planes a little.
    torch.testing.assert_close(grid[1:-1, 3], expected[1:-1], rtol=0, atol=0.06)
    assert interpolate_positions(positions, side) is positions
    with pytest.raises(WeightsProblem, match="no square"):
        interpolate_positions(positions[:, :-1], new)


def test_images_are_resized_in_bytes_and_normalised() -> None:
    extractor = ClipExtractor.__new__(ClipExtractor)
    extractor.device, extractor._net = torch.device("cpu"), nn.Flatten()
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    found = extractor(image[None]).view(3, 224, 224)
    resized = np.asarray(Image.fromarray(image.numpy()).resize((224, 224), Image.Resampling.BICUBIC))
    expected = (resized / 255 - ClipExtractor.mean) / ClipExtractor.std
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [ClipExtractor, DinoExtractor])
def test_files_that_are_something_else_are_refused(tmp_path: Path, kind: Any) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "page.pth").write_text("<html>")
    # Patches of 16 pixels, which timm would resample.
    kernel = {kind.patches: torch.zeros(1024, 3, 16, 16)}
    if kind is ClipExtractor:
        write_archive(tmp_path / "patches.pth", kernel)
    else:
        torch.save(kernel, tmp_path / "patches.pth")
    for name in ("missing", "other", "page", "patches"):
        with pytest.raises(UserError, match=r"run `gdd fetch (clip-vit-b-32|dinov2-vit-l-14)`") as error:
            kind(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)
