# What a person can ask for: demo, all, one target per ablation, tables, figures.
import os
import sys

from snakemake.utils import min_version

from gdd.config.load import load_config
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.targets import Targets

min_version("9.10")

# Several jobs share one terminal, where two live bars would overwrite each other; `gdd watch` shows all runs.
os.environ.setdefault("GDD_PROGRESS", "plain")

# `--config extra="FOLDER ..."` adds settings, methods and ablations that lie outside this repository;
# `--config folder=FOLDER` replaces config/.
try:
    targets = Targets(
        Experiments(
            load_config(config.get("folder", "config"), config.get("extra", "").split())
        )
    )
except UserError as error:
    sys.exit(f"gdd: {error}")
os.environ.update(targets.environment())


# What can come from nowhere is told at once and in one list, not job by job.
onstart:
    try:
        targets.require_provisions(workflow.dag.needrun_jobs())
    except UserError as error:
        sys.exit(f"gdd: {error}")


wildcard_constraints:
    dataset="[^/]+",
    name="[^/]+",
    teacher="[^/]+",
    setting="[^/]+",
    run="[^/]+",
    external="[^/]+",
    seed="[0-9]+",
    steps="[0-9]+",
    pairs="[0-9]+",
    table="[^/]+",
    page="[^/]+",


include: "workflow/rules/fetch.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/teachers.smk"
include: "workflow/rules/distill.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/external.smk"
include: "workflow/rules/report.smk"


for page in targets.pages():

    rule:
        name:
            page
        default_target: page == "all"
        input:
            targets.page(page),


for ablation in targets.ablations():

    rule:
        name:
            ablation
        input:
            targets.of_ablation(ablation),


rule tables:
    input:
        targets.all_tables(),


rule figures:
    input:
        targets.all_figures(),
