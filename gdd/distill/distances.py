"""How far the student's images are from their targets: squared error, or LPIPS."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from gdd.adversary.published_weights import WeightsProblem, fill, read_state
from gdd.config.names import LPIPS
from gdd.errors import UserError

# (output, target), each [B, C, H, W] in about [-1, 1] -> [B]
Distance = Callable[[Tensor, Tensor], Tensor]

LPIPS_SIDE = 224  # pixels; the papers resize to what VGG was trained on


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each image, [B]."""
    return (output - target).square().flatten(1).mean(1)


def load_lpips(trunk: Path) -> Distance:
    """Return LPIPS with VGG (arXiv:1801.03924, version 0.1) on images resized bilinearly to 224 x 224.

    All its weights are fixed: gradients go to the images alone. An image of one channel is shown as grey.
    `trunk` has torchvision's weights of `vgg16` (a `.pth`); the linear layers come with the package `lpips`.

    Raises:
        UserError: the file is broken, or holds something else.
    """
    import lpips  # takes seconds, and few runs need it

    # The package draws a random trunk, for which torchvision warns of an old argument. With `pnet_rand=False`
    # it would download the weights.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    # The trunk is cut into slices that keep torchvision's numbers: slice2.5.weight is features.5.weight.
    own = {f"features.{name.partition('.')[2]}": name for name in network.net.state_dict()}
    try:
        state = {own.get(name, name): tensor for name, tensor in read_state(trunk).items()}
        fill(network.net, state, unneeded=("classifier.",))
    except WeightsProblem as problem:
        raise UserError(
            f"The VGG of LPIPS {trunk} {problem}; delete it and get it anew with `gdd fetch {LPIPS}`."
        ) from None
    network.eval().requires_grad_(False)

    def distance(output: Tensor, target: Tensor) -> Tensor:
        values: Tensor = network.to(output.device)(_resized(output), _resized(target))
        return values.flatten()

    return distance


def _resized(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    return functional.interpolate(images, (LPIPS_SIDE, LPIPS_SIDE), mode="bilinear", align_corners=False)
