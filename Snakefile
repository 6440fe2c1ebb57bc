# What a person can ask for: demo, all, one target per ablation, tables, figures.
import os
import sys

from snakemake.utils import min_version

from gdd.errors import UserError
from gdd.stages import showing
from workflow.lib.frozen import EXTRA, FOLDER, Frozen, hand_on, handed_on
from workflow.lib.missing import require_what_is_missing
from workflow.lib.rules import Rules, folders

min_version("9.10")

# Several jobs share one terminal, where two live bars would overwrite each other; `gdd watch` shows all runs.
os.environ.setdefault("GDD_PROGRESS", "plain")

# `--config extra="FOLDER ..."` adds settings, methods and ablations that lie outside this repository (of several,
# one with spaces has quotes of its own); `--config folder=FOLDER` replaces config/. A job reads the copy that its
# workflow made when it started.
try:
    if workflow.is_main_process:
        place = [str(config.get("folder", "config")), *folders(config.get("extra"))]
        frozen = Frozen(*place)
        hand_on(*place)
    else:
        place = handed_on()
    lib = Rules(*place)
except UserError as error:
    sys.exit(f"gdd: {error}")


envvars:
    FOLDER,
    EXTRA,


onstart:
    try:
        require_what_is_missing(lib.config, workflow.dag.needrun_jobs())
        lib.refuse_too_few_gpus(workflow.dag.needrun_jobs())
        frozen.freeze()
    except UserError as error:
        sys.exit(f"gdd: {error}")


wildcard_constraints:
    dataset="[^/]+",
    extractor="[^/]+",
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
include: "workflow/rules/report.smk"


# To Snakemake a word that is no target is a file in this folder, and no other rule makes one there.
rule unknown:
    input:
        lib.no_such_target,
    output:
        "{target,[^/]+}",


try:
    lib.refuse_names_of_rules(rule.name for rule in workflow.rules)
except UserError as error:
    sys.exit(f"gdd: {error}")


for target in lib.config.project.targets:

    rule:
        name:
            target
        default_target: target == "all"
        input:
            showing.page_of(lib.experiments, target),


for ablation in lib.config.ablations:

    rule:
        name:
            ablation
        input:
            showing.ablation_files(lib.experiments, ablation),
            showing.page_of(lib.experiments, ablation),


rule tables:
    input:
        lib.all_files("tables"),


rule figures:
    input:
        lib.all_files("figures"),
