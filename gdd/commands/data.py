"""Commands that make data sets, feature networks and references."""

from __future__ import annotations

from pathlib import Path

import click

from gdd import paths
from gdd.commands.options import DEVICE, EXPECT, FILE, TRUST, Here, pass_here, say
from gdd.errors import UserError
from gdd.stages.inputs import raw_path, stated_sha256


@click.command()
@click.argument("name")
@click.option("--raw", type=FILE, help="Where the raw data lies, if not where local.yaml says or as fetched.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that convert images.")
@click.option("--allow-corrupt", type=click.IntRange(0), help="Unusable images to leave out.")
@EXPECT
@pass_here
def dataset(
    here: Here, name: str, raw: Path | None, workers: int, allow_corrupt: int | None, expect: str | None
) -> None:
    """Prepare the data set NAME. Killed at any time, the same command goes on where it was."""
    from gdd.data.prepare import prepare

    here.stage("dataset", expect, dataset=name)
    record, out = here.config.datasets[name], paths.dataset_folder(name)
    allowed = record.allow_corrupt if allow_corrupt is None else allow_corrupt
    raw = raw or raw_path(here.config, name)
    array = prepare(out, name, record, raw, workers=workers, allow_corrupt=allowed)
    say(f"{out}: {len(array):,} images of {array.shape}.")


@click.command()
@click.argument("name")
@EXPECT
@pass_here
def features(here: Here, name: str, expect: str | None) -> None:
    """Train (or calibrate) the small feature network NAME."""
    from gdd.data.image_array import ImageArray
    from gdd.training.feature_network import make_feature_network

    stage, out = here.stage("features", expect, name=name), paths.network_file(name)
    data = ImageArray.open(stage.path("data"))
    outcome = make_feature_network(out, here.config.features[name], data)
    say(f"{out}: " + ", ".join(f"{key} {value:.4g}" for key, value in outcome.items()))


@click.command()
@click.argument("dataset")
@click.argument("extractor")
@click.option("--images", type=FILE, help="Real images in an .npz, a folder, a .zip or a .tar instead.")
@click.option("--out", type=FILE, help="Where the reference of such images goes.")
@TRUST
@DEVICE
@pass_here
def reference(
    here: Here,
    dataset: str,
    extractor: str,
    images: Path | None,
    out: Path | None,
    trust_sha256: tuple[str, ...],
    device: str,
) -> None:
    """Compute the features of DATASET by EXTRACTOR, or `pixels`, that generated images are compared with."""
    from gdd.data.image_array import ImageArray
    from gdd.metrics.build_reference import build_reference
    from gdd.metrics.extractors import open_extractor
    from gdd.metrics.sources import open_source
    from gdd.training.world import own_device

    if (images is None) != (out is None):
        raise UserError("--images and --out belong together: a reference of other images has its own place.")
    stage = here.stage("reference", dataset=dataset, extractor=extractor)
    weights, out = stage.find(f"extractor {extractor}"), out or paths.reference_file(dataset, extractor)
    if images is not None:
        found = open_source(images)
        shape, sha256, pixels = found.shape, found.sha256, found.images(0, found.count or 0).numpy()
    else:
        data = ImageArray.open(stage.path("data"))
        shape, sha256, pixels = data.shape, data.sha256, data.images
    trusted = [*stated_sha256(here.config), *trust_sha256]
    network = open_extractor(extractor, weights, shape, own_device(device), trusted)
    made = build_reference(pixels, network, dataset=dataset, dataset_sha256=sha256, path=out)
    say(f"{out}: {made.count:,} images, real-against-real FID {made.floor.get('fid')}.")


@click.command()
@click.argument("dataset")
@click.argument("extractor")
@EXPECT
@pass_here
def distance(here: Here, dataset: str, extractor: str, expect: str | None) -> None:
    """Compute how far the reference of DATASET lies from the one that others published; about 0 is right."""
    from gdd.metrics.build_reference import report_distance

    stage = here.stage("distance", expect, dataset=dataset, extractor=extractor)
    out = paths.distance_file(dataset, extractor)
    found = report_distance(out, stage.path("reference"), stage.path("published"))
    say(f"{out}: Frechet distance {found['frechet_distance']:.4g}.")
