"""What has to be there before anything starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gdd.config.local import Local
from gdd.errors import UserError
from gdd.provisions import raw_path, require_provisions, resource
from gdd.targets import Targets

FACES = "{title: Faces, source: folder, transform: resize, resolution: 8, channels: 3, images: 7, classes: 0}"
TINY_IMAGES = "{title: Tiny, source: cifar10, resolution: 8, channels: 3, images: 7, classes: 0, raw: tiny}"
SOURCE = {
    "use": "test",
    "path": "datasets/tiny.tar.gz",
    "bytes": None,
    "checksum": None,
    "licence": "none",
}


@pytest.fixture
def project(config_folder: Any, tmp_path: Path) -> Any:
    """The digits, a data set that only the user has, and two that are made from one fetched file."""
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


DATASETS = ["digits", "faces", "some", "fewer"]


def refused(config: Any, resources: Path, fetches: Any = ("tiny", "weights")) -> str:
    with pytest.raises(UserError) as caught:
        require_provisions(config, fetches, DATASETS, resources)
    return str(caught.value)


def test_what_can_be_fetched_is_not_missed(project: Any, tmp_path: Path) -> None:
    assert refused(project(), tmp_path).splitlines()[1:] == [
        f"Data sets: in {tmp_path}/config/local.yaml, `raw_data` has to say where each lies.",
        "  faces: a folder, .zip or .tar of its 7 images, or EDM's ZIP",
    ]


def test_offline_the_list_is_complete(project: Any, tmp_path: Path) -> None:
    lines = refused(project(offline=True), tmp_path / "resources").splitlines()
    assert "  faces: a folder, .zip or .tar of its 7 images, or EDM's ZIP" in lines
    places = ("datasets/tiny.tar.gz", "backbones/w.pth")
    assert [f"  {tmp_path}/resources/{place}" for place in places] == [
        line for line in lines if line.startswith(f"  {tmp_path}/resources/")
    ]


def test_what_is_there_is_enough(project: Any, tmp_path: Path) -> None:
    (tmp_path / "faces.zip").touch()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "w.pth").touch()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "tiny.tar.gz").touch()
    config = project(
        offline=True,
        raw_data={"faces": str(tmp_path / "faces.zip" / "train")},
        mirrors={"https://example.org/": f"file:{tmp_path}/mirror/"},
    )
    require_provisions(config, ["tiny", "weights"], DATASETS, tmp_path)


def test_a_place_that_does_not_exist_is_named(project: Any, tmp_path: Path) -> None:
    text = refused(project(raw_data={"faces": "/no/such/place"}), tmp_path)
    assert "faces: /no/such/place does not exist; expected is a folder" in text


def test_the_users_own_copy_comes_before_the_fetched_one(project: Any, tmp_path: Path) -> None:
    config = project()
    dataset = config.datasets["some"]
    assert raw_path("some", dataset, config.local, config.sources) == Path("resources/datasets/tiny.tar.gz")
    assert resource(config, "tiny") == "resources/datasets/tiny.tar.gz"
    config = project(raw_data={"tiny": "/mine.tar.gz"})
    assert raw_path("some", dataset, config.local, config.sources) == Path("/mine.tar.gz")
    assert raw_path("faces", config.datasets["faces"], config.local, config.sources) is None


def test_jobs_say_what_they_need(project: Any, config_folder: Any, tmp_path: Path) -> None:
    project(offline=True)
    targets = Targets(config_folder.load())
    jobs = [
        SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=[name], input=[])
        for rule, name in [("fetch", "weights"), ("dataset", "faces"), ("distill", "digits")]
    ]
    with pytest.raises(UserError) as caught:
        targets.require_provisions(jobs)
    assert "faces" in str(caught.value)
    assert "backbones/w.pth" in str(caught.value)
    assert "tiny" not in str(caught.value)
    targets.require_provisions(jobs[2:])


def test_a_fetched_file_that_is_gone_is_missed(project: Any, config_folder: Any, tmp_path: Path) -> None:
    config = project()
    require_provisions(config, ["weights"], [], tmp_path, noted=[])
    with pytest.raises(UserError) as caught:
        require_provisions(config, [], [], tmp_path, noted=["weights"])
    assert f"{tmp_path}/backbones/w.pth: put it back, or delete results/fetched/weights.json" in str(
        caught.value
    )
    (tmp_path / "backbones").mkdir()
    (tmp_path / "backbones/w.pth").touch()
    require_provisions(config, [], [], tmp_path, noted=["weights"])

    # Not of a job that fetches it anyway.
    jobs = [
        SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=["tiny"], input=files)
        for rule, files in [("fetch", []), ("distill", ["results/fetched/tiny.json"])]
    ]
    targets = Targets(config_folder.load())
    targets.require_provisions(jobs)
    with pytest.raises(UserError, match="were fetched and are gone"):
        targets.require_provisions(jobs[1:])


def test_an_empty_folder_is_missed(project: Any, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    text = refused(project(raw_data={"faces": str(tmp_path / "faces")}), tmp_path)
    assert f"faces: {tmp_path}/faces is empty; expected is a folder" in text


@pytest.mark.parametrize(
    ("local", "sentence"),
    [
        (
            {"raw_data": {"face": "/x"}},
            "'raw_data.face': no data set is made from raw data of that name; there are: faces.",
        ),
        ({"raw_data": {"digits": "/x"}}, "no data set is made from raw data of that name"),
        ({"mirrors": {"https://x/": "ftp://y/"}}, "a mirror is an http(s) URL, file: or a path"),
        ({"scratch": 3}, "'scratch' is 3"),
        ({"scratch": "disk"}, "'scratch' is 'disk': give an absolute path"),
    ],
)
def test_slips_in_local_yaml(project: Any, local: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        project(**local)
    assert sentence in str(caught.value)


def test_scratch_takes_variables_and_no_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    assert Local(scratch="$NODE_DISK/x").scratch_folder() == tmp_path / "x"
    assert Local(scratch="~/x").scratch_folder() == Path.home() / "x"
    assert Local().scratch_folder() is None
    monkeypatch.delenv("NODE_DISK")
    with pytest.raises(UserError, match="give an absolute path"):
        Local(scratch="$NODE_DISK/x").scratch_folder()


def test_two_sources_cannot_share_a_place(project: Any, config_folder: Any, tmp_path: Path) -> None:
    project()
    extra = tmp_path / "mine"
    (extra / "ablations").mkdir(parents=True)
    mine = {"other": {**SOURCE, "url": "https://example.org/other"}}
    (extra / "sources.yaml").write_text(yaml.safe_dump({"sources": mine}))
    with pytest.raises(UserError, match="'other' has the path of 'tiny'"):
        config_folder.load(extra)


def test_a_data_set_waits_for_its_file_unless_the_user_has_it(project: Any, config_folder: Any) -> None:
    def inputs() -> list[str]:
        return Targets(config_folder.load()).dataset_fetched(SimpleNamespace(dataset="some"))

    project()
    assert inputs() == ["results/fetched/tiny.json"]
    project(raw_data={"tiny": "/mine.tar.gz"})
    assert inputs() == []
