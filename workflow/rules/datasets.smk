# Raw data -> image array, the small networks trained on it, and its reference features.


rule dataset:
    input:
        targets.dataset_fetched,
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
    threads: targets.dataset_threads
    resources:
        **targets.cluster,
        mem_mb=lambda wildcards, threads: 1500 + 500 * threads,
        runtime=lambda wildcards, threads: 30 if threads == 1 else 720,
    params:
        folder=subpath(output.description, parent=True),
        record=targets.dataset_record,
    shell:
        "gdd --log {log} --threads 1 dataset {params.folder}"
        " --name {wildcards.dataset} --record {params.record:q} --workers {threads}"


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
        **targets.cluster,
        mem_mb=2000,
        runtime=30,
    params:
        record=targets.features_record,
    shell:
        "gdd --log {log} --threads {threads} features {output}"
        " --data {input.data} --record {params.record:q}"


rule pixel_reference:
    input:
        data="results/datasets/{dataset}/identity.json",
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
        **targets.cluster,
        mem_mb=2000,
        runtime=30,
    shell:
        "gdd --log {log} --threads {threads} reference {output} --data {input.data}"


rule reference:
    input:
        data="results/datasets/{dataset}/identity.json",
        judge=targets.reference_judge,
    output:
        "results/references/{dataset}/{name}.npz",
    log:
        "results/logs/references/{dataset}-{name}.log",
    benchmark:
        "results/benchmarks/references/{dataset}-{name}.tsv"
    conda:
        "../../environment.yml"
    threads: targets.describing.cores
    resources:
        **targets.describing.cluster,
        gpu=targets.describing.gpu,
        mem_mb=targets.describing.mem_mb,
        runtime=targets.describing.minutes,
    params:
        judge=targets.reference_weights,
    shell:
        "gdd --log {log} --threads {threads} --gpus {resources.gpu} reference {output}"
        " --data {input.data} --judge {params.judge}"


rule reference_distance:
    input:
        reference="results/references/{dataset}/{name}.npz",
        statistics=targets.statistics_fetched,
    output:
        "results/references/{dataset}/{name}-published.json",
    log:
        "results/logs/references/{dataset}-{name}-published.log",
    benchmark:
        "results/benchmarks/references/{dataset}-{name}-published.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **targets.cluster,
        mem_mb=4000,
        runtime=30,
    params:
        published=targets.statistics,
    shell:
        "gdd --log {log} --threads {threads} reference-distance {output}"
        " --reference {input.reference} --published {params.published}"


ruleorder: pixel_reference > reference
