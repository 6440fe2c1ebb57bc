"""The command line: one sub-command a stage, arguments in, files out."""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
from pathlib import Path

import click

from gdd.commands import data, distill, evaluate, networks, probe, project, report
from gdd.commands.options import FILE, Here
from gdd.errors import STOPPED, ProcessLost, Stopped, UserError
from gdd.gpus import claim

# No room, a quota, a limit to a file's size; a place nobody may write to; a folder where a file belongs.
CANNOT_WRITE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
}
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
LOG_ONLY = "gdd.call"  # what was called, and how it ended: for the log file


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=FILE, default=Path("config"), envvar="GDD_CONFIG", show_default=True)
@click.option(
    "--extra", type=FILE, multiple=True, envvar="GDD_EXTRA", help="Further configuration folder, repeatable."
)
@click.option("--log", "log_file", type=FILE, help="Also write messages to this file.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; bits of a run depend on them.")
@click.option("--gpus", type=click.IntRange(0), help="Claim as many free GPUs of this machine; 0 hides all.")
@click.pass_context
@click.version_option(package_name="gdd")
def cli(
    context: click.Context,
    config: Path,
    extra: tuple[Path, ...],
    log_file: Path | None,
    threads: int | None,
    gpus: int | None,
) -> None:
    """GDD: diffusion models as one-step generators, stage by stage.

    Stages go by the names in config/ and find their files below results/ and resources/ of the folder they
    are called in. `snakemake` calls them in the right order.
    """
    context.obj = Here(config, extra)
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.addFilter(lambda record: record.name != LOG_ONLY)
    handlers: list[logging.Handler] = [terminal]
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, mode="a", encoding="utf-8", errors="backslashreplace"))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, handlers=handlers)
    logging.captureWarnings(True)
    logging.getLogger(LOG_ONLY).info("gdd %s", " ".join(sys.argv[1:]))
    if gpus is not None and "RANK" not in os.environ:  # whoever started this process has claimed them
        context.obj.gpus = claim(gpus)
    # Threads that spin while they wait make each other several times slower wherever a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads:
        gc.disable()  # looking for garbage among its modules is a quarter of a command's start
        import torch

        gc.freeze()
        gc.enable()
        torch.set_num_threads(max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


for command in (
    project.fetch,
    data.dataset,
    data.features,
    data.reference,
    data.distance,
    networks.teacher,
    networks.import_teacher,
    networks.import_external,
    networks.pairs,
    distill.distill,
    evaluate.evaluate,
    evaluate.sample,
    report.table,
    report.figure,
    report.choose,
    report.page,
    project.check,
    project.plan,
    probe.probe,
    project.schema,
    project.watch,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; bad input ends in one sentence and a status other than 0."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UserError as error:
        _fail(str(error), BAD_INPUT)
    except ProcessLost as lost:
        _fail(str(lost), STOPPED)
    except Stopped as stop:
        _fail(f"{stop} The same command resumes it.", STOPPED)
    except click.Abort:  # Ctrl-C
        _fail("interrupted.", INTERRUPTED)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        _fail(
            f"{error.strerror}: {error.filename or 'while writing'}; make room or change the place.", FAILED
        )


def _fail(sentence: str, status: int) -> None:
    logging.getLogger(LOG_ONLY).error(sentence)
    print(f"gdd: {sentence}", file=sys.stderr)
    sys.exit(status)
