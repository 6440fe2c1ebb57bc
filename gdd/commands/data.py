"""Commands that make data sets, feature networks and references."""

from __future__ import annotations

from pathlib import Path

import click

from gdd.commands.options import CONFIG_FOLDER, DEVICE, EXTRA_FOLDERS, FILE, say
from gdd.errors import UserError


@click.command()
@click.argument("out", type=FILE)
@click.option("--name", required=True, help="What the data set is called in other files.")
@click.option("--record", required=True, help="A file of config/datasets/, or its content as JSON.")
@click.option(
    "--raw",
    type=FILE,
    help="The raw data: a folder or archive, or a folder inside an archive. Without it, what `raw_data` in "
    "local.yaml says, or the fetched file.",
)
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that convert images.")
@click.option("--allow-corrupt", type=click.IntRange(0), help="Unusable images to leave out.")
@CONFIG_FOLDER
@EXTRA_FOLDERS
def dataset(
    out: Path,
    name: str,
    record: str,
    raw: Path | None,
    workers: int,
    allow_corrupt: int | None,
    folder: Path,
    extra: tuple[Path, ...],
) -> None:
    """Prepare a data set: OUT receives images.npy, labels.npy and dataset.json.

    Killed at any time, the same command goes on where it was.
    """
    from gdd.config.load import load_all_sources, parse_record
    from gdd.config.local import load_local
    from gdd.config.records import Dataset
    from gdd.data.prepare import prepare
    from gdd.provisions import raw_path

    wanted = parse_record(Dataset, record)
    if raw is None and wanted.source != "digits":
        raw = raw_path(name, wanted, load_local(folder), load_all_sources([folder, *extra]))
    allow_corrupt = wanted.allow_corrupt if allow_corrupt is None else allow_corrupt
    array = prepare(out, name, wanted, raw, workers=workers, allow_corrupt=allow_corrupt)
    say(f"{out}: {len(array):,} images of {array.shape}.")


@click.command()
@click.argument("out", type=FILE)
@click.option("--data", type=FILE, required=True, help="The data set's folder.")
@click.option("--record", required=True, help="A file of config/features/, or its content as JSON.")
def features(out: Path, data: Path, record: str) -> None:
    """Train (or calibrate) a small feature network and write its weights to OUT."""
    from gdd.config.load import parse_record
    from gdd.config.records import FeatureNetwork
    from gdd.data.image_array import ImageArray
    from gdd.training.feature_network import make_feature_network

    outcome = make_feature_network(out, parse_record(FeatureNetwork, record), ImageArray.open(data))
    say(f"{out}: " + ", ".join(f"{key} {value:.4g}" for key, value in outcome.items()))


@click.command()
@click.argument("out", type=FILE)
@click.option("--data", type=FILE, help="The data set's folder.")
@click.option("--images", type=FILE, help="Instead: real images in an .npz, a folder, a .zip or a .tar.")
@click.option("--name", help="The data set's name, which --images do not say.")
@click.option("--judge", type=FILE, help="Weights of the feature network; without it, raw pixels.")
@click.option(
    "--extractor",
    help="Which of the published extractors the weights are of; what OUT is called, if that is one of them.",
)
@DEVICE
def reference(
    out: Path,
    data: Path | None,
    images: Path | None,
    name: str | None,
    judge: Path | None,
    extractor: str | None,
    device: str,
) -> None:
    """Compute a data set's reference features and write them to OUT (npz)."""
    from gdd.config.metrics import PIXELS
    from gdd.config.pretrained import EXTRACTORS
    from gdd.data.image_array import ImageArray
    from gdd.metrics.extractors import open_extractor
    from gdd.metrics.reference import build_reference
    from gdd.metrics.sources import open_source
    from gdd.training.world import own_device

    if extractor is None and out.stem in EXTRACTORS:
        extractor = out.stem
    if extractor is not None and judge is None:
        raise UserError(f"The extractor {extractor} needs its weights; say where they lie with --judge.")
    if (data is None) == (images is None):
        raise UserError("Give either --data, a prepared data set, or --images.")
    if images is not None and name is None:
        raise UserError("--images do not say which data set they are; give it a name with --name.")
    if images is None and name is not None:
        raise UserError("--name belongs to --images; a prepared data set has its name.")
    if extractor is None:
        extractor = PIXELS if judge is None else "inception" if judge.suffix == ".pt" else "classifier"
    if images is not None and name is not None:
        found = open_source(images)
        network = open_extractor(extractor, judge, found.shape, own_device(device))
        pixels = found.images(0, found.count or 0).numpy()
        made = build_reference(pixels, network, dataset=name, dataset_sha256=found.sha256, path=out)
    elif data is not None:
        array = ImageArray.open(data)
        network = open_extractor(extractor, judge, array.shape, own_device(device))
        made = build_reference(
            array.images, network, dataset=array.name, dataset_sha256=array.sha256, path=out
        )
    say(
        f"{out}: {made.description.count:,} images, real-against-real FID {made.description.floor.get('fid')}"
    )


@click.command("reference-distance")
@click.argument("out", type=FILE)
@click.option("--reference", "own", type=FILE, required=True, help="What `gdd reference` wrote.")
@click.option("--published", type=FILE, required=True, help="Mean and covariance that others published.")
def reference_distance(out: Path, own: Path, published: Path) -> None:
    """Write how far a reference lies from the one that others published to OUT (json); about 0 is right."""
    from gdd.metrics.published import report_distance

    found = report_distance(out, own, published)
    say(f"{out}: Frechet distance {found['frechet_distance']:.4g} to {published}.")
