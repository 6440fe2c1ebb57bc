"""What has to be there before anything starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gdd.errors import UserError
from workflow.lib.missing import require_what_is_missing
from workflow.lib.rules import Rules

FACES = "{title: Faces, source: folder, transform: resize, resolution: 8, channels: 3, images: 7, classes: 0}"
TINY_IMAGES = "{title: Tiny, source: cifar10, resolution: 8, channels: 3, images: 7, classes: 0, raw: tiny}"
SOURCE = {"use": "test", "path": "datasets/tiny.tar.gz", "bytes": None, "checksum": None, "licence": "none"}


def job(rule: str, *inputs: str, **names: str) -> Any:
    return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=SimpleNamespace(**names), input=inputs)


JOBS = [
    *(job("dataset", dataset=name) for name in ("digits", "faces", "some", "fewer")),
    *(job("fetch", name=name) for name in ("tiny", "weights")),
]


@pytest.fixture
def project(config_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The digits, a data set that only the user has, and two that are made from one fetched file."""
    monkeypatch.chdir(tmp_path)
    config_folder.write("datasets/faces.yaml", FACES)
    config_folder.write("datasets/some.yaml", TINY_IMAGES)
    config_folder.write("datasets/fewer.yaml", TINY_IMAGES)
    sources = {
        "tiny": {**SOURCE, "url": "https://example.org/tiny.tar.gz"},
        "weights": {**SOURCE, "url": "https://example.org/w.pth", "path": "backbones/w.pth"},
    }
    config_folder.write("sources.yaml", yaml.safe_dump({"sources": sources}))

    def load(**local: Any) -> Any:
        config_folder.write("local.yaml", yaml.safe_dump(local))
        return config_folder.load().config

    return load


def refused(config: Any, jobs: Any = JOBS) -> list[str]:
    with pytest.raises(UserError) as caught:
        require_what_is_missing(config, jobs)
    return str(caught.value).splitlines()


def there(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()


def test_what_can_be_fetched_is_missed_offline_only(project: Any, tmp_path: Path) -> None:
    faces = "  faces: a folder, .zip or .tar of its 7 images, or EDM's ZIP"
    heading = f"Data sets: in {tmp_path}/config/local.yaml, `raw_data` has to say where each lies."
    assert refused(project())[1:] == [heading, faces]
    lines = refused(project(offline=True))
    assert faces in lines
    assert [line for line in lines if line.startswith("  resources/")] == [
        "  resources/datasets/tiny.tar.gz",
        "  resources/backbones/w.pth",
    ]


def test_what_is_there_is_enough(project: Any, tmp_path: Path) -> None:
    for path in ("faces.zip", "mirror/w.pth", "resources/datasets/tiny.tar.gz"):
        there(path)
    local = {
        "offline": True,
        "raw_data": {"faces": str(tmp_path / "faces.zip" / "train")},
        "mirrors": {"https://example.org/": f"file:{tmp_path}/mirror/"},
    }
    require_what_is_missing(project(**local), JOBS)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [("no/such", "does not exist; expected is a folder"), ("empty", "is empty; expected")],
)
def test_a_place_without_data_is_named(project: Any, tmp_path: Path, place: str, sentence: str) -> None:
    Path("empty").mkdir()
    text = "\n".join(refused(project(raw_data={"faces": str(tmp_path / place)})))
    assert f"faces: {tmp_path / place} {sentence}" in text


def test_a_fetched_file_that_is_gone_is_missed_unless_it_is_fetched_again(project: Any) -> None:
    config, trains = project(), job("distill", "results/fetched/weights.json")
    require_what_is_missing(config, [job("fetch", name="weights"), trains])
    (_, _, line) = refused(config, [trains])
    assert line == "  resources/backbones/w.pth: put it back, or delete results/fetched/weights.json"
    there("resources/backbones/w.pth")
    require_what_is_missing(config, [trains])


def test_an_unknown_target_has_a_suggestion(config_folder: Any) -> None:
    rules = Rules(str(config_folder.path))
    rules.refuse_unknown(["all", "small", "tables", "results/runs/digits/gdd/seed0/run.json"])
    with pytest.raises(UserError) as caught:
        rules.refuse_unknown(["smal"])
    assert str(caught.value) == (
        "There is no target 'smal'; did you mean 'small'? there are: all, small, tables, figures, "
        "and files below results/."
    )
