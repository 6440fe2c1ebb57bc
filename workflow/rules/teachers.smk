# Teachers, published or trained here, and their ODE solved from many noises.


rule import_teacher:
    input:
        targets.teacher_fetched,
    output:
        weights="results/teachers/{teacher}/model.safetensors",
        identity="results/teachers/{teacher}/model.json",
    log:
        "results/logs/teachers/{teacher}.log",
    benchmark:
        "results/benchmarks/teachers/{teacher}.tsv"
    wildcard_constraints:
        teacher=targets.published_teachers(),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **targets.cluster,
        mem_mb=8000,
        runtime=30,
    params:
        source=targets.teacher_source,
        licence=targets.teacher_licence,
        record=targets.teacher_record,
    shell:
        "gdd --log {log} --threads {threads} import-teacher {params.source} {output.weights}"
        " --identity {output.identity} --licence {params.licence:q} --record {params.record:q}"


rule teacher:
    input:
        data=targets.teacher_data,
    output:
        weights="results/teachers/{teacher}/model.safetensors",
        identity="results/teachers/{teacher}/model.json",
        facts="results/teachers/{teacher}/teacher.json",
        progress="results/teachers/{teacher}/log.jsonl",
    log:
        "results/logs/teachers/{teacher}.log",
    benchmark:
        "results/benchmarks/teachers/{teacher}.tsv"
    wildcard_constraints:
        teacher=targets.trained_teachers(),
    priority: 100
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **targets.cluster,
        mem_mb=4000,
        runtime=120,
        progress=targets.teacher_state,
    params:
        folder=subpath(output.weights, parent=True),
        record=targets.teacher_record,
    shell:
        "gdd --log {log} --threads {threads} teacher {params.folder}"
        " --data {input.data} --record {params.record:q}"


rule pairs:
    input:
        weights=ancient("results/teachers/{teacher}/model.safetensors"),
        identity="results/teachers/{teacher}/model.json",
    output:
        "results/pairs/{teacher}/steps{steps}-{pairs}.safetensors",
    log:
        "results/logs/pairs/{teacher}-steps{steps}-{pairs}.log",
    benchmark:
        "results/benchmarks/pairs/{teacher}-steps{steps}-{pairs}.tsv"
    priority: 80
    conda:
        "../../environment.yml"
    threads: targets.solving.cores
    resources:
        **targets.solving.cluster,
        gpu=targets.solving.gpu,
        mem_mb=targets.solving.mem_mb,
        runtime=targets.solving.minutes,
    shell:
        "gdd --log {log} --threads {threads} --gpus {resources.gpu} pairs {output} --teacher {input.weights}"
        " --count {wildcards.pairs} --sampler '{{\"steps\": {wildcards.steps}}}'"
