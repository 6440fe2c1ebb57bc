# Teachers, published or trained here, and their ODE solved from many noises.


rule teacher:
    input:
        lib.watched("teacher"),
    output:
        # What else its training leaves (teacher.json, log.jsonl) lies beside them.
        weights="results/teachers/{teacher}/model.safetensors",
        identity="results/teachers/{teacher}/model.json",
    log:
        "results/logs/teachers/{teacher}.log",
    benchmark:
        "results/benchmarks/teachers/{teacher}.tsv"
    priority: 100
    conda:
        "../../environment.yml"
    threads: lib.cores("teacher")
    resources:
        **lib.resources("teacher"),
    params:
        expect=lib.hash("teacher"),
    shell:
        "gdd --log {log:q} --threads {threads} --gpus {resources.gpu}"
        " teacher {wildcards.teacher:q} --expect {params.expect:q}"


rule pairs:
    input:
        watched=lib.watched("pairs"),
        present=ancient(lib.present("pairs")),
    output:
        "results/pairs/{teacher}/steps{steps}-{pairs}.safetensors",
    log:
        "results/logs/pairs/{teacher}-steps{steps}-{pairs}.log",
    benchmark:
        "results/benchmarks/pairs/{teacher}-steps{steps}-{pairs}.tsv"
    priority: 80
    conda:
        "../../environment.yml"
    threads: lib.cores("pairs")
    resources:
        **lib.resources("pairs"),
    shell:
        "gdd --log {log:q} --threads {threads} --gpus {resources.gpu}"
        " pairs {wildcards.teacher:q} --steps {wildcards.steps:q} --count {wildcards.pairs:q}"
