"""What others published: as configuration, as rows of a table, and as files that have to be provided."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gdd.config.evaluation import Evaluation
from gdd.config.external import External
from gdd.config.load import load_config, parse_record
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.provisions import external_path, require_provisions
from gdd.targets import Targets

SIM = {
    "title": "Sim",
    "holds": "generator",
    "licence": "none",
    "settings": {"digits": {"where": "their page"}},
}
FILE = SimpleNamespace(setting="digits", external="sim")


@pytest.fixture
def project(config_folder: Any) -> Any:
    """The small table with a row of what others published."""
    config_folder.write("external/sim.yaml", yaml.safe_dump(SIM))
    config_folder.change("ablations/small.yaml", ("rows", "Theirs"), {"external": "sim"})
    return config_folder


def refusal(project: Any) -> str:
    with pytest.raises(UserError) as caught:
        project.load()
    return str(caught.value)


def test_a_row_of_what_others_published(project: Any) -> None:
    targets = Targets(project.load())
    (row,) = (row for row in targets.experiments.rows("small") if row.title == "Theirs")
    assert (row.external, row.runs, row.method, row.teacher_steps) == ("sim", (), None, None)
    metrics = "results/external/digits/sim/metrics.json"
    assert f"results/{row.metrics()[0]}" == metrics
    table = SimpleNamespace(table="small")
    assert metrics in targets.table_inputs(table)
    assert "results/external/digits/sim/samples.npz" in targets.sample_inputs(table)


def test_it_stands_only_in_settings_it_was_published_for(project: Any) -> None:
    settings = project.path / "settings"
    (settings / "other.yaml").write_bytes((settings / "digits.yaml").read_bytes())
    project.change("ablations/small.yaml", ("setting",), ...)
    project.change("ablations/small.yaml", ("settings",), ["digits", "other"])
    rows = project.load().rows("small")
    assert [row.setting for row in rows if row.external] == ["digits"]
    assert [row.setting for row in rows if row.method == "gdd"] == ["digits", "other"]
    project.change("ablations/small.yaml", ("settings",), ["other"])
    assert "has a file for digits, none of which is a setting of the table." in refusal(project)


def test_a_teacher_at_the_settings_own_steps(project: Any) -> None:
    project.change("ablations/small.yaml", ("rows", "Teacher"), {"teacher_steps": "setting"})
    (row,) = (row for row in project.load().rows("small") if row.teacher_steps)
    assert row.teacher_steps == 18


@pytest.mark.parametrize(
    ("file", "keys", "value", "sentence"),
    [
        (
            "external/sim.yaml",
            ("settings",),
            {"digit": {}},
            "'settings' is 'digit': no such file in settings/",
        ),
        ("external/sim.yaml", ("settings",), {}, "it needs at least one entry"),
        ("external/sim.yaml", ("evaluations",), 1, "'evaluations' belongs to images"),
        ("external/sim.yaml", ("settings", "digits", "published"), "x", "no such file in sources.yaml"),
        ("ablations/small.yaml", ("rows", "Theirs"), {"external": "sin"}, "no such file in external/"),
        ("ablations/small.yaml", ("rows", "Theirs"), {"external": "sim", "batch": 8}, "'batch' cannot stand"),
        ("local.yaml", ("external",), {"sim": {"digit": "/x"}}, "has no such setting; there are: digits."),
        ("local.yaml", ("external",), {"sin": {"digits": "/x"}}, "no such file in external/"),
        ("settings/digits.yaml", ("evaluation", "metrics"), ["kid"], "'metrics' needs 'fid'"),
        (
            "settings/digits.yaml",
            ("evaluation", "metrics"),
            ["fid", "lpips"],
            "'evaluation.metrics.1' is 'lpips'",
        ),
        ("settings/digits.yaml", ("evaluation", "metrics"), ["fid"], "'pixels' adds to the usual metrics"),
    ],
)
def test_mistakes(project: Any, file: str, keys: tuple[str, ...], value: Any, sentence: str) -> None:
    if file == "local.yaml":
        project.write(file, yaml.safe_dump({keys[0]: value}))
    else:
        project.change(file, keys, value)
    told = refusal(project)
    assert sentence in told
    assert "\n" not in told


def test_what_the_user_has_to_provide_is_listed(project: Any, tmp_path: Path) -> None:
    config = project.load().config
    with pytest.raises(UserError) as caught:
        require_provisions(config, [], [], external=[("sim", "digits")])
    assert str(caught.value).splitlines()[1:] == [
        f"Published by others: in {project.path}/local.yaml, `external` has to say where each lies.",
        "  sim: digits: its network (their page)",
    ]
    project.write("local.yaml", yaml.safe_dump({"external": {"sim": {"digits": str(tmp_path / "sim.pkl")}}}))
    config = project.load().config
    with pytest.raises(UserError, match=r"sim\.pkl does not exist; expected is its network \(their page\)"):
        require_provisions(config, [], [], external=[("sim", "digits")])
    (tmp_path / "sim.pkl").touch()
    require_provisions(config, [], [], external=[("sim", "digits")])
    record = config.external["sim"]
    assert external_path("sim", "digits", record, config.local, config.sources) == tmp_path / "sim.pkl"


def test_only_jobs_that_read_it_need_it(project: Any) -> None:
    targets = Targets(project.load())

    def job(rule: str) -> Any:
        return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=FILE, input=[])

    targets.require_provisions([job("evaluate_external")])  # the generator was imported before
    with pytest.raises(UserError, match="sim: digits: its network"):
        targets.require_provisions([job("import_external")])
    assert targets.external_weights(FILE) == ["results/external/digits/sim/model.safetensors"]
    assert targets.external_read(FILE) == ["results/external/digits/sim/model.json"]
    project.change("external/sim.yaml", ("holds",), "images")
    images = Targets(project.load())
    with pytest.raises(UserError, match=r"sim: digits: its images as an \.npz"):
        images.require_provisions([job("evaluate_external")])
    assert (images.external_weights(FILE), images.external_read(FILE)) == ([], [])


def test_what_is_fetched_is_waited_for_unless_the_user_has_it(project: Any) -> None:
    source = {"use": "x", "url": "https://example.org/s.pkl", "path": "external/s.pkl", "bytes": None}
    content = {"sources": {"theirs": {**source, "checksum": None, "licence": "none"}}}
    project.write("sources.yaml", yaml.safe_dump(content))
    project.change("external/sim.yaml", ("settings", "digits", "published"), "theirs")
    targets = Targets(project.load())
    assert targets.external_fetched(FILE) == ["results/fetched/theirs.json"]
    require_provisions(targets.config, [], [], external=[("sim", "digits")])
    before = targets.external_record(FILE)
    project.write("local.yaml", yaml.safe_dump({"external": {"sim": {"digits": "/elsewhere/s.pkl"}}}))
    project.change("external/sim.yaml", ("title",), "Another title")
    targets = Targets(project.load())
    assert targets.external_fetched(FILE) == []
    # Neither a title nor a place is a reason to judge it again.
    assert targets.external_record(FILE) == before
    assert parse_record(External, before).settings.keys() == {"digits"}


def test_the_projects_own_records() -> None:
    experiments = Experiments(load_config("config"))
    rows = experiments.rows("external")
    published = {(row.external, row.setting) for row in rows if row.external}
    assert len(published) == 12
    assert {(of.external, of.setting) for of in experiments.config.reported if of.external} == published
    assert {row.setting: row.teacher_steps for row in rows if row.teacher_steps} == {
        "cifar10-uncond": 18, "cifar10-cond": 18, "afhqv2": 40, "ffhq": 40, "imagenet": 256,
    }  # fmt: skip


def test_the_usual_metrics() -> None:
    evaluation = Evaluation(extractor="judge", pixels=True, samples=3)
    assert evaluation.wanted_on_curves() == ("fid", "pixel_fid")
    assert evaluation.extractors() == ["judge", "pixels"]
    # A key that came later does not change what was written before.
    assert json.loads(evaluation.canonical()).keys() == {
        "dataset",
        "extractor",
        "pixels",
        "samples",
        "blocks",
    }
    listed = Evaluation(extractor="inception", samples=3, metrics=("fid", "clip_fid", "clean_fid", "kid"))
    assert listed.wanted_on_curves() == ("fid",)
    assert listed.extractors() == ["inception", "clip", "inception-clean"]
