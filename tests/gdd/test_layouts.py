"""`gdd fetch` reads what it has brought, and refuses a file whose tensors are not those that are needed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from click.testing import CliRunner
from edm_writer import TINY_ARGUMENTS

from gdd.cli import cli
from gdd.commands.layouts import layouts
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.files import sha256

pytestmark = pytest.mark.slow  # imports timm

SOURCES = {
    "tf-efficientnet-lite0": "backbones/lite0.pth",
    "dinov2-vit-l-14": "metrics/dino.pth",
    "clip-vit-b-32": "metrics/clip.pt",
    "inception": "metrics/inception.pt",
    "stylegan-xl-class-embeddings": "backbones/embeddings.pkl",
    "lpips-vgg16": "metrics/vgg.pth",
    "net": "teachers/net.pkl",
    "sid": "external/sid.pkl",
}
Fetch = Callable[..., str]


@pytest.fixture
def fetch(config_folder: Any, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Publish a file, in a project where others' networks are wanted, and fetch it; return the complaint."""
    root = config_folder.path.parent
    monkeypatch.chdir(root)
    teacher = {"title": "T", "dataset": "digits", "architecture": TINY_ARGUMENTS, "published": "net"}
    other = {
        "title": "O",
        "holds": "generator",
        "licence": "none",
        "settings": {"digits": {"published": "sid"}},
    }
    config_folder.write("teachers/tiny.yaml", yaml.safe_dump(teacher))
    config_folder.write("external/other.yaml", yaml.safe_dump(other))
    mirrors = {"https://example.org/": f"{root}/published/"}
    config_folder.write("local.yaml", yaml.safe_dump({"mirrors": mirrors}))

    def call(name: str, write: Callable[[Path], Any], *, known: bool = False) -> str:
        file = root / "published" / SOURCES[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file)
        facts = {"use": "a test", "bytes": None, "checksum": None, "licence": "none"}
        sources = {
            key: {**facts, "path": path, "url": f"https://example.org/{path}"}
            for key, path in SOURCES.items()
        }
        if known:
            sources[name]["checksum"] = f"sha256:{sha256(file)}"
        config_folder.write("sources.yaml", yaml.safe_dump({"sources": sources}))
        result = CliRunner().invoke(cli, ["fetch", name])
        assert result.exception is None or isinstance(result.exception, UserError), result.exception
        return str(result.exception or "")

    return call


def lite0(path: Path, **changes: torch.Tensor) -> None:
    with torch.device("meta"):
        state = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save({name: torch.zeros(like.shape) for name, like in state.items()} | changes, path)


def other_shape(path: Path) -> None:
    lite0(path, **{"conv_stem.weight": torch.zeros(32, 3, 5, 5)})


def test_a_backbone(fetch: Fetch) -> None:
    sentence = fetch("tf-efficientnet-lite0", other_shape)
    assert re.fullmatch(
        r"/\S*published/backbones/lite0.pth is not what is needed here: The file resources/backbones/lite0.pth of "
        r"the backbone 'tf_efficientnet_lite0' is another network's \(1 tensors differ, the first is "
        r"'conv_stem.weight'\); it was removed; try a mirror, or correct config/sources.yaml\.",
        sentence,
    )
    assert [path.name for path in Path("resources").rglob("*") if path.is_file()] == [".lite0.pth.lock"]
    assert fetch("tf-efficientnet-lite0", lite0) == ""
    assert Path("resources/backbones/lite0.pth").is_file()


def test_the_known_file_is_kept_but_gets_no_name(fetch: Fetch) -> None:
    for _ in range(2):
        sentence = fetch("tf-efficientnet-lite0", other_shape, known=True)
        assert "'conv_stem.weight'); it stays as resources/backbones/lite0.pth.part; try" in sentence
    files = {path.name for path in Path("resources/backbones").iterdir()}
    assert "lite0.pth.part" in files
    assert "lite0.pth" not in files


def test_a_file_put_there_by_hand(fetch: Fetch) -> None:
    Path("resources/backbones").mkdir(parents=True)
    other_shape(Path("resources/backbones/lite0.pth"))
    for _ in range(2):
        assert "the first is 'conv_stem.weight'" in fetch("tf-efficientnet-lite0", lite0)


@pytest.mark.parametrize("name", ["dinov2-vit-l-14", "clip-vit-b-32", "lpips-vgg16"])
def test_extractors(name: str, fetch: Fetch) -> None:
    sentence = fetch(name, lambda path: torch.save({"a.weight": torch.zeros(2)}, path))
    assert f"resources/{SOURCES[name]} " in sentence
    assert re.search("is another network's|cannot be read", sentence)


def test_code_is_read_only_if_it_is_known(fetch: Fetch) -> None:
    def write(path: Path) -> None:
        torch.save({}, path)

    assert "is not the Inception network" in fetch("inception", write, known=True)
    assert fetch("inception", write) == ""


def test_teachers_and_generators(fetch: Fetch, tiny: Path) -> None:
    assert fetch("net", lambda path: shutil.copy(tiny, path)) == ""
    shutil.rmtree("resources")
    assert "is damaged" in fetch("net", lambda path: path.write_bytes(tiny.read_bytes()[:-999]))
    other = Path("config/teachers/tiny.yaml")
    other.write_text(other.read_text().replace("num_blocks: 1", "num_blocks: 2"))
    assert "whose 'num_blocks' is 1, but the teacher's file says 2; it" in fetch(
        "net", lambda path: shutil.copy(tiny, path)
    )
    assert fetch("sid", lambda path: shutil.copy(tiny, path)) == ""


def test_class_embeddings(fetch: Fetch, tiny: Path) -> None:
    assert "holds no 'embed'" in fetch("stylegan-xl-class-embeddings", lambda path: shutil.copy(tiny, path))


def test_every_file_with_tensors_is_read(papers: Experiments) -> None:
    data = {"cifar10", "adm-reference-imagenet-64x64"}
    assert layouts(papers.config).keys() == papers.config.sources.keys() - data
