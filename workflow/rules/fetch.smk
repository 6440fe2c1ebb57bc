# Every download there is. The only stage that uses a network, and always on the machine where Snakemake runs.


localrules:
    fetch,


rule fetch:
    output:
        # A small note with the file's hash: a file fetched again with the same content makes nothing stale.
        "results/fetched/{name}.json",
    log:
        "results/logs/fetched/{name}.log",
    benchmark:
        "results/benchmarks/fetched/{name}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # The largest network is read as soon as it is there.
        mem_mb=4000,
        runtime=240,
    params:
        expect=lib.hash("fetch"),
    shell:
        "gdd --log {log:q} fetch {wildcards.name:q} --note --expect {params.expect:q}"
