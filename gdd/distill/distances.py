"""How far the student's images are from their targets: squared error, or LPIPS."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gdd.errors import UserError

# (output, target), each [B, C, H, W] in about [-1, 1] -> [B]
Distance = Callable[[Tensor, Tensor], Tensor]

LPIPS_SIDE = 224  # pixels; the papers resize to what VGG was trained on


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each image, `[B]`."""
    return (output - target).square().flatten(1).mean(1)


class Lpips:
    """LPIPS with VGG (arXiv:1801.03924, version 0.1) on images resized bilinearly to 224 x 224.

    All its weights are fixed: gradients go to the images alone. An image of one channel is shown as grey.

    Args:
        trunk: torchvision's weights of `vgg16` (a `.pth`). The linear layers come with the package `lpips`.

    Raises:
        UserError: the file is missing, broken, or holds something else.
    """

    def __init__(self, trunk: str | Path) -> None:
        weights = _read_trunk(Path(trunk))
        import lpips  # takes seconds, and few runs need it

        # The package draws a random trunk, for which torchvision warns of an old argument. With
        # `pnet_rand=False` it would download the weights.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        own = self.network.net.state_dict()
        # The trunk is cut into slices that keep torchvision's numbers: slice2.5.weight is features.5.weight.
        sources = {name: "features." + name.split(".", 1)[1] for name in own}
        for name, source in sources.items():
            if source not in weights or weights[source].shape != own[name].shape:
                raise UserError(f"{trunk} does not hold VGG-16; fetch it again with 'gdd fetch lpips-vgg16'.")
        self.network.net.load_state_dict({name: weights[source] for name, source in sources.items()})
        self.network.eval().requires_grad_(False)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each image of `output` to that of `target`, `[B]`."""
        self.network.to(output.device)
        distances: Tensor = self.network(_resized(output), _resized(target))
        return distances.flatten()


def _resized(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    return functional.interpolate(images, (LPIPS_SIDE, LPIPS_SIDE), mode="bilinear", align_corners=False)


def _read_trunk(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"The VGG of LPIPS {path} does not exist; get it with 'gdd fetch lpips-vgg16'.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read ({reason}); fetch it again with 'gdd fetch lpips-vgg16'."
        ) from None
    return {name: tensor for name, tensor in dict(weights).items() if isinstance(tensor, Tensor)}
