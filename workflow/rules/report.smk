# Metrics -> tables, figures, pages. Nothing here reads weights, and all of it takes seconds: on a cluster these
# rules run where Snakemake runs, so that no table queues for a GPU.


localrules:
    table,
    choice,
    figure,
    page,


rule table:
    input:
        lib.watched("table"),
    output:
        multiext("results/tables/{table}", ".csv", ".md", ".tex", ".json"),
    log:
        "results/logs/tables/{table}.log",
    benchmark:
        "results/benchmarks/tables/{table}.tsv"
    wildcard_constraints:
        table=lib.table_names(),  # what a table chooses has a name like a table's
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        expect=lib.hash("table"),
    shell:
        "gdd --log {log:q} table {wildcards.table:q} --expect {params.expect:q}"


rule choice:
    input:
        lib.watched("table"),
    output:
        multiext("results/tables/{table}-choice", ".yaml", ".md"),
    log:
        "results/logs/tables/{table}-choice.log",
    benchmark:
        "results/benchmarks/tables/{table}-choice.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        expect=lib.hash("table"),
    shell:
        "gdd --log {log:q} choose {wildcards.table:q} --expect {params.expect:q}"


rule figure:
    input:
        lib.watched("figure"),
    output:
        multiext("results/figures/{table}-{kind}", ".png", ".pdf"),
    log:
        "results/logs/figures/{table}-{kind}.log",
    benchmark:
        "results/benchmarks/figures/{table}-{kind}.tsv"
    wildcard_constraints:
        kind="curve|spread|samples",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        expect=lib.hash("figure"),
    shell:
        "gdd --log {log:q} figure {wildcards.kind:q} {wildcards.table:q} --expect {params.expect:q}"


rule page:
    input:
        lib.watched("page"),
    output:
        "results/site/{page}.html",
    log:
        "results/logs/site/{page}.log",
    benchmark:
        "results/benchmarks/site/{page}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        expect=lib.hash("page"),
    shell:
        "gdd --log {log:q} page {wildcards.page:q} --expect {params.expect:q}"
