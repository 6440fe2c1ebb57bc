# What others published -> metrics.


rule import_external:
    input:
        targets.external_fetched,
    output:
        weights="results/external/{setting}/{external}/model.safetensors",
        identity="results/external/{setting}/{external}/model.json",
    log:
        "results/logs/external/{setting}/{external}.log",
    benchmark:
        "results/benchmarks/external/{setting}/{external}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **targets.cluster,
        mem_mb=8000,
        runtime=30,
    params:
        record=targets.external_record,
        dataset=targets.reference_dataset,
    shell:
        "gdd --log {log} --threads {threads} import-external {wildcards.external} {output.weights}"
        " --identity {output.identity} --setting {wildcards.setting} --dataset {params.dataset}"
        " --record {params.record:q}"


rule evaluate_external:
    input:
        # Weights are watched through the small file that holds their hash; images that the user provides are
        # not watched at all, as raw data are not.
        weights=ancient(targets.external_weights),
        identity=targets.external_read,
        data=targets.reference_data,
        judges=targets.judges,
        # Decided by the data set and the judges, so their time stamps say nothing new.
        references=ancient(targets.references),
    output:
        metrics="results/external/{setting}/{external}/metrics.json",
        samples="results/external/{setting}/{external}/samples.npz",
    log:
        "results/logs/external/{setting}/{external}.evaluation.log",
    benchmark:
        "results/benchmarks/external/{setting}/{external}.evaluation.tsv"
    conda:
        "../../environment.yml"
    threads: targets.judging.cores
    resources:
        **targets.judging.cluster,
        gpu=targets.judging.gpu,
        mem_mb=targets.judging.mem_mb,
        runtime=targets.judging.minutes,
        progress=targets.external_blocks,
    params:
        record=targets.external_record,
        evaluation=targets.teacher_evaluation,
        references=targets.reference_folder,
        judges=targets.judge_options,
        weights=lambda wildcards, input: [f"--weights {file}" for file in input.weights],
    shell:
        "gdd --log {log} --threads {threads} --gpus {resources.gpu}"
        " evaluate-external {wildcards.external} {output.metrics}"
        " --setting {wildcards.setting} --record {params.record:q} {params.weights}"
        " --samples {output.samples} --evaluation {params.evaluation:q} --data {input.data}"
        " --references {params.references} {params.judges}"
