# Metrics -> tables, figures, pages. Nothing here reads weights, and all of it takes seconds: on a cluster these
# rules run where Snakemake runs, so that no table queues for a GPU.


localrules:
    table,
    choice,
    curve_figure,
    spread_figure,
    samples_figure,
    page,


rule table:
    input:
        targets.table_inputs,
    output:
        multiext("results/tables/{table}", ".csv", ".md", ".tex", ".json"),
    log:
        "results/logs/tables/{table}.log",
    benchmark:
        "results/benchmarks/tables/{table}.tsv"
    wildcard_constraints:
        table=targets.table_names(),  # what a table chooses has a name like a table's
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        shown=targets.table_params,
    shell:
        "gdd --log {log} table {wildcards.table}"


rule choice:
    input:
        targets.table_inputs,
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
        shown=targets.table_params,
    shell:
        "gdd --log {log} choose {wildcards.table}"


rule curve_figure:
    input:
        targets.table_inputs,
    output:
        multiext("results/figures/{table}-curve", ".png", ".pdf"),
    log:
        "results/logs/figures/{table}-curve.log",
    benchmark:
        "results/benchmarks/figures/{table}-curve.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        shown=targets.table_params,
    shell:
        "gdd --log {log} figure curve {wildcards.table}"


rule spread_figure:
    input:
        targets.table_inputs,
    output:
        multiext("results/figures/{table}-spread", ".png", ".pdf"),
    log:
        "results/logs/figures/{table}-spread.log",
    benchmark:
        "results/benchmarks/figures/{table}-spread.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        shown=targets.table_params,
    shell:
        "gdd --log {log} figure spread {wildcards.table}"


rule samples_figure:
    input:
        targets.sample_inputs,
    output:
        multiext("results/figures/{table}-samples", ".png", ".pdf"),
    log:
        "results/logs/figures/{table}-samples.log",
    benchmark:
        "results/benchmarks/figures/{table}-samples.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        shown=targets.table_params,
    shell:
        "gdd --log {log} figure samples {wildcards.table}"


rule page:
    input:
        targets.page_inputs,
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
        shown=targets.page_params,
        target=targets.page_target,
    shell:
        "gdd --log {log} page {params.target} {output}"
