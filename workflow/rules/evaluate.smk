# Snapshots, teachers and what others published -> metrics.


rule evaluate_run:
    input:
        watched=lib.watched("evaluate_run"),
        present=ancient(lib.present("evaluate_run")),
    output:
        "results/runs/{setting}/{run}/seed{seed}/metrics.json",
    log:
        "results/logs/runs/{setting}/{run}/seed{seed}.evaluation.log",
    benchmark:
        "results/benchmarks/runs/{setting}/{run}/seed{seed}.evaluation.tsv"
    priority: 40
    conda:
        "../../environment.yml"
    threads: lib.cores("evaluate_run")
    resources:
        **lib.resources("evaluate_run"),
    params:
        expect=lib.hash("evaluate_run"),
    shell:
        "gdd --log {log:q} --threads {threads} --gpus {resources.gpu}"
        " evaluate run {wildcards.setting:q} {wildcards.run:q} --seed {wildcards.seed:q}"
        " --expect {params.expect:q}"


rule evaluate_teacher:
    input:
        watched=lib.watched("evaluate_teacher"),
        present=ancient(lib.present("evaluate_teacher")),
    output:
        metrics="results/teachers/{teacher}/metrics/{setting}-steps{steps}.json",
        samples="results/teachers/{teacher}/samples/{setting}-steps{steps}.npz",
    log:
        "results/logs/teachers/{teacher}-{setting}-steps{steps}.log",
    benchmark:
        "results/benchmarks/teachers/{teacher}-{setting}-steps{steps}.tsv"
    # The longest job after the teacher: started last, it would leave a core idle.
    priority: 70
    conda:
        "../../environment.yml"
    threads: lib.cores("evaluate_teacher")
    resources:
        **lib.resources("evaluate_teacher"),
    params:
        expect=lib.hash("evaluate_teacher"),
    shell:
        "gdd --log {log:q} --threads {threads} --gpus {resources.gpu}"
        " evaluate teacher {wildcards.setting:q} {wildcards.teacher:q} --steps {wildcards.steps:q}"
        " --expect {params.expect:q}"


rule import_external:
    input:
        lib.watched("import_external"),
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
        **lib.resources("import_external"),
    params:
        expect=lib.hash("import_external"),
    shell:
        "gdd --log {log:q} --threads {threads}"
        " import-external {wildcards.setting:q} {wildcards.external:q} --expect {params.expect:q}"


rule evaluate_external:
    input:
        watched=lib.watched("evaluate_external"),
        present=ancient(lib.present("evaluate_external")),
    output:
        metrics="results/external/{setting}/{external}/metrics.json",
        samples="results/external/{setting}/{external}/samples.npz",
    log:
        "results/logs/external/{setting}/{external}.evaluation.log",
    benchmark:
        "results/benchmarks/external/{setting}/{external}.evaluation.tsv"
    conda:
        "../../environment.yml"
    threads: lib.cores("evaluate_external")
    resources:
        **lib.resources("evaluate_external"),
    params:
        expect=lib.hash("evaluate_external"),
    shell:
        "gdd --log {log:q} --threads {threads} --gpus {resources.gpu}"
        " evaluate external {wildcards.setting:q} {wildcards.external:q} --expect {params.expect:q}"
