# Raw data -> image array, the small networks trained on it, and its reference features.


rule dataset:
    output:
        images="results/datasets/{dataset}/images.npy",
        labels="results/datasets/{dataset}/labels.npy",
        description="results/datasets/{dataset}/dataset.json",
    log:
        "results/logs/datasets/{dataset}.log",
    benchmark:
        "results/benchmarks/datasets/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        folder=subpath(output.description, parent=True),
        record=targets.dataset_record,
    shell:
        "gdd --log {log} --threads {threads} dataset {params.folder}"
        " --name {wildcards.dataset} --record {params.record:q}"


rule feature_network:
    input:
        data=targets.features_data,
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
        mem_mb=2000,
        runtime=30,
    params:
        record=targets.features_record,
    shell:
        "gdd --log {log} --threads {threads} features {output}"
        " --data {input.data} --record {params.record:q}"


rule pixel_reference:
    input:
        data="results/datasets/{dataset}/dataset.json",
    output:
        "results/references/{dataset}/pixels.npz",
    log:
        "results/logs/references/{dataset}-pixels.log",
    benchmark:
        "results/benchmarks/references/{dataset}-pixels.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "gdd --log {log} --threads {threads} reference {output} --data {input.data}"


rule reference:
    input:
        data="results/datasets/{dataset}/dataset.json",
        judge="results/features/{name}.safetensors",
    output:
        "results/references/{dataset}/{name}.npz",
    log:
        "results/logs/references/{dataset}-{name}.log",
    benchmark:
        "results/benchmarks/references/{dataset}-{name}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "gdd --log {log} --threads {threads} reference {output}"
        " --data {input.data} --judge {input.judge}"


ruleorder: pixel_reference > reference
