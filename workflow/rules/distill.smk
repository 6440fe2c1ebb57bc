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
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
        # What shows a cluster that a run that was started again got further.
        progress=targets.run_state,
    params:
        folder=subpath(output.facts, parent=True),
        recipe=targets.recipe_json,
        backbones=targets.backbone_options,
        files=targets.file_options,
        pairs=lambda wildcards, input: [f"--pairs {file}" for file in input.pairs],
    shell:
        "gdd --log {log} --threads {threads} distill {params.folder} --seed {wildcards.seed}"
        " --recipe {params.recipe:q} --teacher {input.teacher} --data {input.data}"
        " {params.backbones} {params.pairs} {params.files}"
