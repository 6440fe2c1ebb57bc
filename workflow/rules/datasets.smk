# Raw data -> image array, the small networks trained on it, and its reference features.


rule dataset:
    input:
        lib.watched("dataset"),
    output:
        images="results/datasets/{dataset}/images.npy",
        labels="results/datasets/{dataset}/labels.npy",
        description="results/datasets/{dataset}/dataset.json",
        # Small, and equal whenever the data are: what depends on them watches this file.
        identity="results/datasets/{dataset}/identity.json",
    log:
        "results/logs/datasets/{dataset}.log",
    benchmark:
        "results/benchmarks/datasets/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: lib.cores("dataset")
    resources:
        **lib.resources("dataset"),
    params:
        expect=lib.hash("dataset"),
    shell:
        "gdd --log {log:q} --threads 1"
        " dataset {wildcards.dataset:q} --workers {threads} --expect {params.expect:q}"


rule features:
    input:
        lib.watched("features"),
    output:
        "results/features/{name}.safetensors",
    log:
        "results/logs/features/{name}.log",
    benchmark:
        "results/benchmarks/features/{name}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **lib.resources("features"),
    params:
        expect=lib.hash("features"),
    shell:
        "gdd --log {log:q} --threads {threads} features {wildcards.name:q} --expect {params.expect:q}"


rule reference:
    input:
        lib.watched("reference"),
    output:
        "results/references/{dataset}/{extractor}.npz",
    log:
        "results/logs/references/{dataset}-{extractor}.log",
    benchmark:
        "results/benchmarks/references/{dataset}-{extractor}.tsv"
    conda:
        "../../environment.yml"
    threads: lib.cores("reference")
    resources:
        **lib.resources("reference"),
    shell:
        "gdd --log {log:q} --threads {threads} --gpus {resources.gpu}"
        " reference {wildcards.dataset:q} {wildcards.extractor:q}"


rule distance:
    input:
        lib.watched("distance"),
    output:
        "results/references/{dataset}/{extractor}-published.json",
    log:
        "results/logs/references/{dataset}-{extractor}-published.log",
    benchmark:
        "results/benchmarks/references/{dataset}-{extractor}-published.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **lib.resources("distance"),
    params:
        expect=lib.hash("distance"),
    shell:
        "gdd --log {log:q} --threads {threads}"
        " distance {wildcards.dataset:q} {wildcards.extractor:q} --expect {params.expect:q}"
