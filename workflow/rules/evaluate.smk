# Snapshots -> metrics.


rule evaluate_run:
    input:
        facts="results/runs/{setting}/{run}/seed{seed}/run.json",
        snapshots="results/runs/{setting}/{run}/seed{seed}/snapshots",
        data=targets.reference_data,
        judges=targets.judges,
        # Decided by the data set and the judges, so their time stamps say nothing new.
        references=ancient(targets.references),
    output:
        "results/runs/{setting}/{run}/seed{seed}/metrics.json",
    log:
        "results/logs/runs/{setting}/{run}/seed{seed}.evaluation.log",
    benchmark:
        "results/benchmarks/runs/{setting}/{run}/seed{seed}.evaluation.tsv"
    priority: 40
    conda:
        "../../environment.yml"
    threads: targets.judging.cores
    resources:
        **targets.judging.cluster,
        gpu=targets.judging.gpu,
        mem_mb=targets.judging.mem_mb,
        runtime=targets.judging.minutes,
        # What shows a cluster that it got further: a block that is done is not done again.
        progress=targets.run_blocks,
    params:
        folder=subpath(output[0], parent=True),
        evaluation=targets.evaluation,
        references=targets.reference_folder,
        judges=targets.judge_options,
    shell:
        "gdd --log {log} --threads {threads} --gpus {resources.gpu} evaluate-run {params.folder}"
        " --evaluation {params.evaluation:q} --data {input.data}"
        " --references {params.references} {params.judges}"


rule evaluate_teacher:
    input:
        weights=ancient("results/teachers/{teacher}/model.safetensors"),
        identity="results/teachers/{teacher}/model.json",
        data=targets.reference_data,
        judges=targets.judges,
        # Decided by the data set and the judges, so their time stamps say nothing new.
        references=ancient(targets.references),
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
    threads: targets.judging.cores
    resources:
        **targets.judging.cluster,
        gpu=targets.judging.gpu,
        mem_mb=targets.judging.mem_mb,
        runtime=targets.judging.minutes,
        progress=targets.teacher_blocks,
    params:
        sampler=targets.sampler,
        evaluation=targets.teacher_evaluation,
        references=targets.reference_folder,
        judges=targets.judge_options,
    shell:
        "gdd --log {log} --threads {threads} --gpus {resources.gpu} evaluate-teacher {output.metrics}"
        " --samples {output.samples} --teacher {input.weights} --sampler {params.sampler:q}"
        " --evaluation {params.evaluation:q} --data {input.data}"
        " --references {params.references} {params.judges}"
