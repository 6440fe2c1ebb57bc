"""Commands that bring files from outside: downloads, and published networks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from gdd.commands.options import CONFIG_FOLDER, EXTRA_FOLDERS, FILE, say
from gdd.errors import UserError


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every file of sources.yaml.")
@click.option("--list", "listed", is_flag=True, help="Say what each file is, and whether it is there.")
@click.option("--offline", is_flag=True, help="Use no network; list what is missing and where to put it.")
@click.option("--verify", is_flag=True, help="Read again what is there, even if it has not changed.")
@click.option("--resources", type=FILE, default=Path("resources"), show_default=True)
@click.option("--note", type=FILE, help="Receives path and SHA-256 of each file (json).")
@CONFIG_FOLDER
@EXTRA_FOLDERS
def fetch(
    names: tuple[str, ...],
    everything: bool,
    listed: bool,
    offline: bool,
    verify: bool,
    resources: Path,
    note: Path | None,
    folder: Path,
    extra: tuple[Path, ...],
) -> None:
    """Download the files NAMES of sources.yaml, verified; the same command goes on where it stopped."""
    from gdd.config.load import load_all_sources
    from gdd.config.local import load_local
    from gdd.fetch.fetch import Resources, choose, listing
    from gdd.fetch.fetch import fetch as run
    from gdd.fetch.lock_file import read_lock
    from gdd.files import sha256, write_json

    if not (names or everything or listed):
        raise UserError("Name what to fetch, or use --all; --list shows what there is.")
    sources = load_all_sources([folder, *extra])
    if not sources:
        raise UserError(f"{folder}/sources.yaml does not exist; --config says where it lies.")
    wanted = choose(sources, names) if names and not everything else sources
    if listed:
        click.echo(listing(wanted, resources))
        return
    local = load_local(folder)
    fetched = run(wanted, Resources(resources, local), offline=offline or local.offline, verify=verify)
    if note:
        lock = read_lock(resources)
        told = {}
        for name, of in wanted.items():
            # A folder nobody may write to has no lock.
            known = lock[of.path].sha256 if of.path in lock else sha256(resources / of.path)
            told[name] = {"path": of.path, "sha256": known}
        write_json(note, told)
    say(f"{len(fetched)} fetched, {len(wanted) - len(fetched)} were there; all verified.")


@click.command("import-teacher")
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
@click.option("--record", help="The file of config/teachers/, or its content as JSON, that it has to fit.")
@click.option("--identity", type=FILE, help="Receives the weights' SHA-256, source and licence (json).")
def import_teacher(
    source: Path,
    destination: Path,
    key: str,
    kind: Literal["denoiser", "generator"],
    licence: str | None,
    record: str | None,
    identity: Path | None,
) -> None:
    """Turn a published network SOURCE (pkl) into DESTINATION (safetensors); no code in SOURCE is run."""
    from gdd.config.load import parse_record
    from gdd.config.records import Teacher
    from gdd.networks.edm_import import EDM_LICENCE, import_network, write_identity

    wanted = parse_record(Teacher, record) if record else None
    arch = import_network(
        source,
        destination,
        key=key,
        kind=kind,
        licence=licence or EDM_LICENCE,
        expected=wanted.architecture if wanted else None,
        dataset=wanted.dataset if wanted else None,
    )
    if identity:
        write_identity(identity, destination)
    side = arch.img_resolution
    say(f"{destination}: a {kind} of {side}x{side} images, {arch.label_dim or 'no'} classes.")
