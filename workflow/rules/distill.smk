# Teacher + image array -> run.
#
# Only what a finished run leaves is declared: Snakemake deletes declared outputs when a job starts or fails,
# while the state in <run>/state/ has to survive so that the same job resumes.


rule distill:
    input:
        data=targets.run_data,
        # Weights are watched through the small file that holds their hash, never through their time stamp.
        teacher=ancient(targets.run_teacher),
        teacher_identity=targets.run_teacher_identity,
        backbones=targets.run_backbones,
        files=targets.run_fetched,
        # Decided by the teacher and by its own name, so its time stamp says nothing new.
        pairs=ancient(targets.run_pairs),
        # Changes nothing but the log.
        monitor=ancient(targets.run_monitor),
    output:
        facts="results/runs/{setting}/{run}/seed{seed}/run.json",
        progress="results/runs/{setting}/{run}/seed{seed}/log.jsonl",
        snapshots=directory("results/runs/{setting}/{run}/seed{seed}/snapshots"),
        samples=directory("results/runs/{setting}/{run}/seed{seed}/samples"),
    log:
        "results/logs/runs/{setting}/{run}/seed{seed}.log",
    benchmark:
        "results/benchmarks/runs/{setting}/{run}/seed{seed}.tsv"
    priority: 50
    conda:
        "../../environment.yml"
    threads: targets.training.cores
    resources:
        **targets.training.cluster,
        # A process on each: their number changes results by rounding only, and makes nothing again.
        gpu=targets.training.gpu,
        nodes=targets.training.nodes,
        mem_mb=targets.training.mem_mb,
        runtime=targets.training.minutes,
        # What shows a cluster that a run that was started again got further.
        progress=targets.run_state,
    params:
        folder=subpath(output.facts, parent=True),
        recipe=targets.recipe_json,
        backbones=targets.backbone_options,
        files=targets.file_options,
        pairs=lambda wildcards, input: [f"--pairs {file}" for file in input.pairs],
    shell:
        "gdd --log {log} --threads {threads} --gpus {resources.gpu}"
        " distill {params.folder} --seed {wildcards.seed} --nodes {resources.nodes}"
        " --recipe {params.recipe:q} --teacher {input.teacher} --data {input.data}"
        " {params.backbones} {params.pairs} {params.files}"
