"""Commands that make data sets, feature networks and references."""

from __future__ import annotations

from pathlib import Path

import click

from gdd.commands.options import CONFIG_FOLDER, FILE, say


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
@click.option("--allow-corrupt", type=click.IntRange(0), default=0, help="Unusable images to leave out.")
@CONFIG_FOLDER
def dataset(
    out: Path, name: str, record: str, raw: Path | None, workers: int, allow_corrupt: int, folder: Path
) -> None:
    """Prepare a data set: OUT receives images.npy, labels.npy and dataset.json.

    Killed at any time, the same command goes on where it was.
    """
    from gdd.config.load import parse_record
    from gdd.config.local import load_local
    from gdd.config.records import Dataset
    from gdd.config.sources import load_sources
    from gdd.data.prepare import prepare
    from gdd.provisions import raw_path

    wanted = parse_record(Dataset, record)
    if raw is None and wanted.source != "digits":
        sources = load_sources(folder) if (folder / "sources.yaml").exists() else {}
        raw = raw_path(name, wanted, load_local(folder), sources)
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
@click.option("--data", type=FILE, required=True, help="The data set's folder.")
@click.option("--judge", type=FILE, help="Weights of the feature network; without it, raw pixels.")
def reference(out: Path, data: Path, judge: Path | None) -> None:
    """Compute a data set's reference features and write them to OUT (npz)."""
    from gdd.data.image_array import ImageArray
    from gdd.metrics.reference import build_reference
    from gdd.metrics.stages import make_extractor

    array = ImageArray.open(data)
    extractor = make_extractor(judge, array)
    made = build_reference(array.images, extractor, dataset=array.name, dataset_sha256=array.sha256, path=out)
    say(f"{out}: {made.description.count:,} images, real-against-real FID {made.description.floor.fid}")


@click.command("reference-distance")
@click.argument("out", type=FILE)
@click.option("--reference", "own", type=FILE, required=True, help="What `gdd reference` wrote.")
@click.option("--published", type=FILE, required=True, help="Mean and covariance that others published.")
def reference_distance(out: Path, own: Path, published: Path) -> None:
    """Write how far a reference lies from the one that others published to OUT (json); about 0 is right."""
    from gdd.metrics.published import report_distance

    found = report_distance(out, own, published)
    say(f"{out}: Frechet distance {found['frechet_distance']:.4g} to {published}.")
