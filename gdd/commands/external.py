"""Commands for what others published: read as files of this project, and judged like a setting's runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gdd.commands.evaluate import judging, of_setting
from gdd.commands.options import CONFIG_FOLDER, EXTRA_FOLDERS, FILE, say
from gdd.errors import UserError


def _external(command: Any) -> Any:
    """Add the options that say which file of others is meant."""
    for option in (
        click.option("--setting", required=True, help="The setting that judges it."),
        click.option("--record", required=True, help="A file of config/external/, or its content as JSON."),
        click.option("--source", type=FILE, help="Where it lies; else local.yaml or what is fetched."),
        EXTRA_FOLDERS,
    ):
        command = option(command)
    return command


@click.command("import-external")
@click.argument("name")
@click.argument("destination", type=FILE)
@click.option("--identity", type=FILE, help="Receives the weights' SHA-256, source and licence (json).")
@click.option("--dataset", help="The data set whose images it makes.")
@click.option("--resources", type=FILE, default=Path("resources"), show_default=True)
@CONFIG_FOLDER
@_external
def import_external(
    name: str, destination: Path, identity: Path | None, dataset: str | None, record: str, **options: Any
) -> None:
    """Turn a generator that others published into DESTINATION (safetensors); no code in it is run."""
    from gdd.config.external import External
    from gdd.config.load import parse_record
    from gdd.networks.edm_import import import_generator, write_identity

    wanted = parse_record(External, record)
    path = _place(name, wanted, **options)
    arch = import_generator(path, destination, key=wanted.key, licence=wanted.licence, dataset=dataset)
    if identity:
        write_identity(identity, destination)
    side = arch.img_resolution
    say(f"{destination}: a generator of {side}x{side} images, {arch.label_dim or 'no'} classes.")


@click.command("evaluate-external")
@click.argument("name")
@click.argument("out", type=FILE)
@click.option("--weights", "model", type=FILE, help="An imported generator; else images.")
@click.option("--samples", type=FILE, required=True, help="Receives the first images (npz).")
@_external
@judging
def evaluate_external(
    name: str,
    out: Path,
    model: Path | None,
    samples: Path,
    setting: str,
    record: str,
    source: Path | None,
    extra: tuple[Path, ...],
    **options: Any,
) -> None:
    """Judge what others published as a setting judges its runs and write the metrics to OUT (json)."""
    from gdd.config.external import External
    from gdd.config.load import parse_record
    from gdd.files import write_json
    from gdd.metrics.sources import open_source
    from gdd.metrics.stages import evaluate_in_setting
    from gdd.training.world import join

    with join(options["device"]) as world:
        wanted = parse_record(External, record)
        if model is None:
            where = {key: options[key] for key in ("folder", "resources")}
            model = _place(name, wanted, setting=setting, source=source, extra=extra, **where)
        images = open_source(model, device=world.device, evaluations=wanted.evaluations)
        evaluation, comparisons = of_setting(images, **options)
        metrics = evaluate_in_setting(images, evaluation, comparisons, out, samples, world=world)
        if world.main:
            write_json(out, {"kind": "external", **metrics, "licence": wanted.licence})
            fid, blocks = metrics["final"]["mean"]["fid"], len(metrics["final"]["blocks"])
            say(f"{out}: FID {fid:.3f} (mean of {blocks} x {evaluation.samples:,} images).")


def _place(
    name: str,
    record: Any,
    *,
    setting: str,
    source: Path | None,
    resources: Path,
    folder: Path,
    extra: tuple[Path, ...],
) -> Path:
    """Return where a file of others lies."""
    from gdd.config.load import load_all_sources
    from gdd.config.local import load_local
    from gdd.provisions import external_path

    if setting not in record.settings:
        raise UserError(
            f"{name} has no file for the setting '{setting}'; there are: {', '.join(record.settings)}."
        )
    local, sources = load_local(folder), load_all_sources([folder, *extra])
    path = source or external_path(name, setting, record, local, sources, resources)
    if path is None:
        raise UserError(
            f"Nobody said where {name} for {setting} lies; add it to {folder}/local.yaml as "
            f"`external: {{{name}: {{{setting}: PATH}}}}`."
        )
    return path
