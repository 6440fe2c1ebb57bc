"""The command line: one sub-command a stage, arguments in, files out."""

from __future__ import annotations

import errno
import logging
import math
import sys
from pathlib import Path
from typing import Any, Literal

import click

from gdd.errors import UserError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
COMMAND_LOG = "gdd.command"  # what was called goes to the log file only
FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--log", "log_file", type=FILE, help="Also write messages to this file.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; bits of a run depend on them.")
@click.version_option(package_name="gdd")
def cli(log_file: Path | None, threads: int | None) -> None:
    """GDD: diffusion models as one-step generators, stage by stage.

    `snakemake` calls these commands in the right order; they can be called by hand as well.
    """
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.addFilter(lambda record: record.name != COMMAND_LOG)
    handlers: list[logging.Handler] = [terminal]
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, mode="a"))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, handlers=handlers)
    logging.captureWarnings(True)
    logging.getLogger(COMMAND_LOG).info("gdd %s", " ".join(sys.argv[1:]))
    if threads:
        import torch

        torch.set_num_threads(threads)


@cli.command()
@click.argument("folder", type=FILE)
@click.option("--name", required=True, help="What the data set is called in other files.")
@click.option("--record", required=True, help="A file of config/datasets/, or its content as JSON.")
@click.option("--raw", type=FILE, help="The raw data: a folder or archive, or a folder inside an archive.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that convert images.")
@click.option("--allow-corrupt", type=click.IntRange(0), default=0, help="Unusable images to leave out.")
def dataset(folder: Path, name: str, record: str, raw: Path | None, workers: int, allow_corrupt: int) -> None:
    """Prepare a data set: FOLDER receives images.npy, labels.npy and dataset.json.

    Killed at any time, the same command goes on where it was.
    """
    from gdd.config.load import parse_record
    from gdd.config.records import Dataset
    from gdd.data.prepare import prepare

    wanted = parse_record(Dataset, record)
    array = prepare(folder, name, wanted, raw, workers=workers, allow_corrupt=allow_corrupt)
    _say(f"{folder}: {len(array):,} images of {array.shape}.")


@cli.command()
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
    _say(f"{out}: " + ", ".join(f"{key} {value:.4g}" for key, value in outcome.items()))


@cli.command()
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
    _say(f"{out}: {made.description.count:,} images, real-against-real FID {made.description.floor.fid}")


@cli.command()
@click.argument("folder", type=FILE)
@click.option("--data", type=FILE, required=True, help="The data set's folder.")
@click.option("--record", required=True, help="A file of config/teachers/, or its content as JSON.")
@click.option("--checkpoint-every", type=click.IntRange(1), help="Images between two checkpoints.")
def teacher(folder: Path, data: Path, record: str, checkpoint_every: int | None) -> None:
    """Train a teacher in FOLDER; the same command resumes it."""
    from gdd.config.load import parse_record
    from gdd.config.records import Teacher
    from gdd.data.image_array import ImageArray
    from gdd.diffusion.teacher import train_teacher

    wanted = parse_record(Teacher, record)
    train_teacher(
        folder,
        wanted.training,
        wanted.architecture,
        ImageArray.open(data),
        checkpoint_every=checkpoint_every,
    )


@cli.command("import-teacher")
@click.argument("source", type=FILE)
@click.argument("destination", type=FILE)
@click.option("--key", default="ema", show_default=True, help="Which of the networks in the file.")
@click.option(
    "--kind",
    type=click.Choice(["denoiser", "generator"]),
    default="denoiser",
    show_default=True,
    help="What it is: a teacher, or a one-step generator that others published.",
)
@click.option("--licence", help="Of the weights; that of EDM's if left out.")
def import_teacher(
    source: Path, destination: Path, key: str, kind: Literal["denoiser", "generator"], licence: str | None
) -> None:
    """Turn a published network SOURCE (pkl) into DESTINATION (safetensors); no code in SOURCE is run."""
    from gdd.networks.edm_import import EDM_LICENCE, import_network

    arch = import_network(source, destination, key=key, kind=kind, licence=licence or EDM_LICENCE)
    side = arch.img_resolution
    _say(f"{destination}: a {kind} of {side}x{side} images, {arch.label_dim or 'no'} classes.")


@cli.command()
@click.argument("out", type=FILE)
@click.option("--teacher", "model", type=FILE, required=True, help="The teacher's weights.")
@click.option("--sampler", required=True, help="The sampler as JSON, e.g. '{\"steps\": 18}'.")
@click.option("--count", type=click.IntRange(1), required=True, help="Number of pairs.")
def pairs(out: Path, model: Path, sampler: str, count: int) -> None:
    """Solve the teacher's ODE from COUNT noises and write the pairs to OUT."""
    from gdd.config.load import parse_record
    from gdd.config.recipe import Sampler
    from gdd.diffusion.sampling import make_pairs

    make_pairs(out, model, parse_record(Sampler, sampler), count)


@cli.command()
@click.argument("folder", type=FILE)
@click.option("--recipe", required=True, help="The recipe as JSON, or a file that holds it.")
@click.option("--seed", type=click.IntRange(0), required=True)
@click.option("--teacher", "model", type=FILE, required=True, help="The teacher's weights.")
@click.option("--data", type=FILE, required=True, help="The data set's folder.")
@click.option("--backbone", "backbones", multiple=True, metavar="FILE", help="NAME.safetensors, repeatable.")
@click.option("--pairs", "pairs_file", type=FILE, help="Solved pairs of noise and image.")
@click.option("--checkpoint-every", type=click.IntRange(1), help="Images between two checkpoints.")
def distill(
    folder: Path,
    recipe: str,
    seed: int,
    model: Path,
    data: Path,
    backbones: tuple[str, ...],
    pairs_file: Path | None,
    checkpoint_every: int | None,
) -> None:
    """Train a one-step generator in FOLDER; the same command resumes it."""
    from gdd.config.load import parse_record
    from gdd.config.recipe import Recipe
    from gdd.distill.distill import Inputs
    from gdd.distill.distill import distill as run

    files = {Path(file).stem: Path(file) for file in backbones}
    inputs = Inputs(teacher=model, data=data, backbones=files, pairs=pairs_file)
    run(folder, parse_record(Recipe, recipe), seed, inputs, checkpoint_every=checkpoint_every)


def _judging(command: Any) -> Any:
    """Add the options that every evaluation needs."""
    for option in (
        click.option("--evaluation", required=True, help="A setting's `evaluation` as JSON."),
        click.option("--data", type=FILE, required=True, help="The data set's folder."),
        click.option("--judge", type=FILE, required=True, help="Weights of the network that judges."),
        click.option("--judge-reference", type=FILE, required=True, help="Its features of the data set."),
        click.option("--pixel-reference", type=FILE, help="The data set's pixels as a reference."),
    ):
        command = option(command)
    return command


@cli.command("evaluate-run")
@click.argument("folder", type=FILE)
@_judging
def evaluate_run(folder: Path, **options: Any) -> None:
    """Judge the snapshots of the run in FOLDER and write FOLDER/metrics.json."""
    from gdd.files import write_json
    from gdd.metrics.stages import evaluate_run as run

    evaluation, references = _references(**options)
    metrics = run(folder, evaluation, references)
    write_json(folder / "metrics.json", metrics)
    fid = metrics["final"]["mean"].get("fid", math.nan)
    _say(f"{folder}: FID {fid:.3f} after {metrics['final']['images']:,} images.")


@cli.command("evaluate-teacher")
@click.argument("out", type=FILE)
@click.option("--teacher", "model", type=FILE, required=True, help="The teacher's weights.")
@click.option("--sampler", required=True, help="The sampler as JSON, e.g. '{\"steps\": 18}'.")
@click.option("--samples", type=FILE, required=True, help="Receives the first images (npz).")
@_judging
def evaluate_teacher(out: Path, model: Path, sampler: str, samples: Path, **options: Any) -> None:
    """Judge a teacher sampled at some number of steps and write the metrics to OUT (json)."""
    from gdd.config.load import parse_record
    from gdd.config.recipe import Sampler
    from gdd.files import write_json
    from gdd.metrics.stages import evaluate_teacher as run

    evaluation, references = _references(**options)
    metrics = run(model, parse_record(Sampler, sampler), evaluation, references, samples)
    write_json(out, metrics)
    _say(f"{out}: FID {metrics['final']['mean']['fid']:.3f} with {metrics['evaluations']} evaluations.")


def _configured(command: Any) -> Any:
    """Add the options that say where configuration and results lie."""
    for option in (
        click.option("--config", "folder", type=FILE, default=Path("config"), show_default=True),
        click.option("--extra", type=FILE, multiple=True, help="Further configuration folder, repeatable."),
        click.option("--results", type=FILE, default=Path("results"), show_default=True),
    ):
        command = option(command)
    return command


def _experiments(folder: Path, extra: tuple[Path, ...]) -> Any:
    from gdd.config.load import load_config
    from gdd.experiments import Experiments

    return Experiments(load_config(folder, extra))


@cli.command()
@click.argument("name")
@_configured
def table(name: str, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Make the table of the ablation NAME as CSV, Markdown, LaTeX and JSON."""
    from gdd.report.tables import build_table, write_table

    write_table(build_table(_experiments(folder, extra), name, results), results / "tables")


@cli.command()
@click.argument("kind", type=click.Choice(["curve", "spread", "samples"]))
@click.argument("name")
@_configured
def figure(kind: str, name: str, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Draw a figure of the ablation NAME as PNG and PDF: its curve, all its runs, or images of each row."""
    from gdd.report.curves import plot_curve
    from gdd.report.samples import plot_samples
    from gdd.report.spread import plot_spread

    plot = {"curve": plot_curve, "spread": plot_spread, "samples": plot_samples}[kind]
    plot(_experiments(folder, extra), name, results, results / "figures" / f"{name}-{kind}")


@cli.command()
@click.argument("name")
@_configured
def choose(name: str, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Write what the ablation NAME chooses per method, as YAML for a setting and as Markdown."""
    from gdd.report.choice import write_choice

    for path in write_choice(_experiments(folder, extra), name, results):
        _say(str(path))


@cli.command()
@click.argument("target")
@click.argument("out", type=FILE)
@_configured
def page(target: str, out: Path, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Write the self-contained page of a TARGET of config.yaml to OUT (html)."""
    from gdd.report.site import write_site

    write_site(_experiments(folder, extra), target, results, out)


@cli.command()
@_configured
def check(folder: Path, extra: tuple[Path, ...], results: Path) -> None:  # noqa: ARG001
    """Check the whole configuration, and say what it adds up to."""
    from gdd.config.local import load_local
    from gdd.config.sources import load_sources

    load_local(folder)
    if (folder / "sources.yaml").exists():
        load_sources(folder)
    experiments = _experiments(folder, extra)
    runs = {run for rows in experiments.tables.values() for row in rows for run in row.runs}
    click.echo(f"{len(experiments.tables)} tables of {len(runs)} runs, all in order.")


@cli.command()
@click.argument("folder", type=FILE, default=Path("config/schema"))
def schema(folder: Path) -> None:
    """Write the JSON schemas of the configuration files to FOLDER."""
    from gdd.config.load import write_schemas

    for path in write_schemas(folder):
        click.echo(path)


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every file of sources.yaml.")
@click.option("--list", "listed", is_flag=True, help="Say what each file is, and whether it is there.")
@click.option("--offline", is_flag=True, help="Use no network; list what is missing and where to put it.")
@click.option("--verify", is_flag=True, help="Read again what is there, even if it has not changed.")
@click.option("--resources", type=FILE, default=Path("resources"), show_default=True)
@click.option("--config", "folder", type=FILE, default=Path("config"), show_default=True)
def fetch(
    names: tuple[str, ...],
    everything: bool,
    listed: bool,
    offline: bool,
    verify: bool,
    resources: Path,
    folder: Path,
) -> None:
    """Download the files NAMES of sources.yaml, verified; the same command goes on where it stopped."""
    from gdd.config.local import load_local
    from gdd.config.sources import load_sources
    from gdd.fetch.fetch import Resources, choose
    from gdd.fetch.fetch import fetch as run
    from gdd.fetch.listing import listing
    from gdd.fetch.progress import show_progress

    if not (names or everything or listed):
        raise UserError("Name what to fetch, or use --all; --list shows what there is.")
    sources = load_sources(folder)
    wanted = choose(sources, names) if names and not everything else sources
    if listed:
        click.echo(listing(wanted, resources))
        return
    local = load_local(folder)
    with show_progress() as progress:
        fetched = run(
            wanted, Resources(resources, local), progress, offline=offline or local.offline, verify=verify
        )
    _say(f"{len(fetched)} fetched, {len(wanted) - len(fetched)} were there; all verified.")


@cli.command()
@click.argument("results", type=FILE, default=Path("results"))
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--interval", type=float, default=2.0, show_default=True, help="Seconds between updates.")
def watch(results: Path, once: bool, interval: float) -> None:
    """Show every run below RESULTS live, wherever it is being trained."""
    from gdd.watch import watch as show

    show(results, once=once, interval=interval)


def _references(
    evaluation: str, data: Path, judge: Path, judge_reference: Path, pixel_reference: Path | None
) -> tuple[Any, Any]:
    from gdd.config.load import parse_record
    from gdd.config.records import Evaluation
    from gdd.data.image_array import ImageArray
    from gdd.metrics.stages import open_references

    opened = open_references(ImageArray.open(data), judge, judge_reference, pixel_reference)
    return parse_record(Evaluation, evaluation), opened


def _say(sentence: str) -> None:
    logging.getLogger("gdd").info(sentence)


def main() -> None:
    """Run the command line; bad input ends in one sentence and a status other than 0."""
    from gdd.training.stop import STOPPED, Stopped

    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UserError as error:
        _fail(str(error), BAD_INPUT)
    except Stopped as stop:
        _fail(f"{stop} The same command resumes it.", STOPPED)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted.", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        _fail(
            f"{error.strerror}: {error.filename or 'while writing'}; make room or change the place.", FAILED
        )


def _fail(sentence: str, status: int) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger("gdd").error(sentence)
            sys.exit(status)
    print(f"gdd: {sentence}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
