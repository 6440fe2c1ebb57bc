from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gdd.adversary.published_weights import WeightsProblem, fill
from gdd.errors import UserError
from gdd.metrics import vision_transformers
from gdd.metrics.vision_transformers import (
    CLIP_MEAN,
    CLIP_STD,
    ClipExtractor,
    DinoExtractor,
    clip_weights,
    interpolate_positions,
    resize,
)

pytestmark = pytest.mark.slow

WIDTH, PATCH, SIDE, OUT = 16, 8, 16, 6


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
    """CLIP's image tower (arXiv:2103.00020), small, written from its description under OpenAI's names."""

    def __init__(self, width: int = WIDTH, depth: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, PATCH, stride=PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList(OpenAIBlock(width) for _ in range(depth))}
        )
        self.proj = nn.Parameter(torch.randn(width, OUT))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([token, patches], dim=1) + self.positional_embedding)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


def tower() -> OpenAITower:
    torch.manual_seed(0)
    net = OpenAITower().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def timms(**options: Any) -> nn.Module:
    timm_transformers = pytest.importorskip("timm.models.vision_transformer")
    with torch.device("meta"):
        return timm_transformers.VisionTransformer(
            img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=2, **options
        )


@torch.no_grad()
def test_openais_weights_in_timms_network_compute_the_same() -> None:
    from functools import partial

    theirs = tower()
    net = timms(
        num_heads=2, num_classes=OUT, pre_norm=True, act_layer="quick_gelu",
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    fill(net, clip_weights({f"visual.{name}": value for name, value in theirs.state_dict().items()}), ())
    images = torch.randn(3, 3, SIDE, SIDE)
    torch.testing.assert_close(net.eval()(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_the_names_are_those_of_the_published_network() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        net = timm.create_model("vit_base_patch32_clip_quickgelu_224", num_classes=512)
        width = 768
        shapes = {
            **{"class_embedding": (width,), "positional_embedding": (50, width), "proj": (width, 512)},
            "conv1.weight": (width, 3, 32, 32),
            **{f"{norm}.{part}": (width,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")},
        }
        for index in range(12):
            block = f"transformer.resblocks.{index}."
            shapes |= {
                f"{block}attn.in_proj_weight": (3 * width, width),
                f"{block}attn.in_proj_bias": (3 * width,),
                f"{block}attn.out_proj.weight": (width, width),
                f"{block}attn.out_proj.bias": (width,),
                f"{block}mlp.c_fc.weight": (4 * width, width),
                f"{block}mlp.c_fc.bias": (4 * width,),
                f"{block}mlp.c_proj.weight": (width, 4 * width),
                f"{block}mlp.c_proj.bias": (width,),
                **{f"{block}ln_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")},
            }
        converted = clip_weights({f"visual.{name}": torch.empty(shape) for name, shape in shapes.items()})
    assert {name: value.shape for name, value in converted.items()} == {
        name: value.shape for name, value in net.state_dict().items()
    }


def test_the_resize_is_pillows_on_bytes() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=generator)
    found = resize(images)
    assert (found.shape, found.dtype) == ((3, 3, 224, 224), torch.uint8)
    expected = Image.fromarray(images[1].numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    assert np.array_equal(found[1].permute(1, 2, 0).numpy(), np.asarray(expected))
    grey = images[..., :1]
    assert torch.equal(resize(grey), resize(grey.repeat(1, 1, 1, 3)))


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
    torch.testing.assert_close(
        grid[1:-1, 3], expected[1:-1], rtol=0, atol=0.06
    )  # PyTorch's filter bends planes
    assert interpolate_positions(positions, side) is positions
    with pytest.raises(WeightsProblem, match="no square"):
        interpolate_positions(positions[:, :-1], new)


class Mean(nn.Module):
    """A network whose features are the means of the normalised channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_images_are_normalised_and_go_through_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_transformers, "clip_network", lambda path: Mean())
    monkeypatch.setattr(vision_transformers, "BATCH", 2)
    (tmp_path / "net.pt").write_bytes(b"weights")
    extractor = ClipExtractor(tmp_path / "net.pt")
    levels = torch.tensor([0, 100, 255], dtype=torch.uint8)
    found = extractor(levels[:, None, None, None].repeat(1, 8, 8, 3))
    expected = (levels[:, None] / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (extractor.name, extractor.dimension, len(extractor.sha256)) == ("clip", 512, 64)
    assert extractor(torch.zeros(0, 8, 8, 3, dtype=torch.uint8)).shape == (0, 512)
    with pytest.raises(UserError, match="not 4 channels"):
        extractor(torch.zeros(1, 8, 8, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("kind", "source"), [(ClipExtractor, "clip-vit-b-32"), (DinoExtractor, "dinov2-vit-l-14")]
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, kind: Any, source: str) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(UserError, match=f"does not exist; run `gdd fetch {source}`"):
        kind(tmp_path / "missing.pth")
    for name in ("other", "page"):
        with pytest.raises(UserError, match=f"run `gdd fetch {source}`") as error:
            kind(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_published_sizes_from_files(tmp_path: Path) -> None:
    """CLIP's archive as OpenAI saves one, in half precision, and DINOv2's state dict at 37x37 positions."""
    timm = pytest.importorskip("timm")
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)

    class Archive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = nn.Module()
            net = OpenAITower(768, 12)
            net.conv1 = nn.Conv2d(3, 768, 32, stride=32, bias=False)
            net.positional_embedding = nn.Parameter(torch.randn(50, 768) * 0.02)
            net.proj = nn.Parameter(torch.randn(768, 512) * 0.03)
            self.visual = Plain(net.half())

        def forward(self, x: Tensor) -> Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Archive()).save(tmp_path / "ViT-B-32.pt")
    features = ClipExtractor(tmp_path / "ViT-B-32.pt")(images)
    assert features.shape == (2, 512)
    assert features.isfinite().all()

    dino = timm.create_model("vit_large_patch14_dinov2", img_size=518, num_classes=0)
    torch.save({**dino.state_dict(), "mask_token": torch.zeros(1, 1024)}, tmp_path / "dino.pth")
    features = DinoExtractor(tmp_path / "dino.pth")(images)
    assert features.shape == (2, 1024)
    assert features.isfinite().all()


class Plain(nn.Module):
    """A module's parameters without its code, which need not compile."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        for name, parameter in of.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, child in of.named_children():
            self.add_module(name, Plain(child))

    def forward(self, x: Tensor) -> Tensor:
        return x
