# Teacher + image array -> run.
#
# Only what a finished run leaves is declared: Snakemake deletes declared outputs when a job starts or fails,
# while the state in <run>/state/ has to survive so that the same job resumes.


rule distill:
    input:
        watched=lib.watched("distill"),
        present=ancient(lib.present("distill")),
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
    threads: lib.cores("distill")
    resources:
        # A process on each GPU: their number changes results by rounding only, and makes nothing again.
        **lib.resources("distill"),
    params:
        expect=lib.hash("distill"),
    shell:
        "gdd --log {log:q} --threads {threads} --gpus {resources.gpu}"
        " distill {wildcards.setting:q} {wildcards.run:q} --seed {wildcards.seed:q} --nodes {resources.nodes}"
        " --expect {params.expect:q}"
