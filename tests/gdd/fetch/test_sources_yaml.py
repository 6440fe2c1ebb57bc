"""config/sources.yaml: complete, unique, and true to what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gdd.config.sources import Source, load_sources
from gdd.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    return load_sources(ROOT / "config")


def test_all_teachers_are_there(sources: dict[str, Source]) -> None:
    cifar = {f"edm-cifar10-32x32-{kind}-{arch}" for kind in ("cond", "uncond") for arch in ("ve", "vp")}
    faces = {f"edm-{data}-64x64-uncond-{arch}" for data in ("ffhq", "afhqv2") for arch in ("ve", "vp")}
    teachers = {name for name, source in sources.items() if source.path.startswith("teachers/")}
    assert teachers == cifar | faces | {"edm-imagenet-64x64-cond-adm"}
    for name in teachers:
        assert sources[name].url == f"https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/{name}.pkl"
        assert sources[name].checksum is None  # NVIDIA publishes none


def test_every_url_is_encrypted_and_its_own(sources: dict[str, Source]) -> None:
    urls = [source.url for source in sources.values()]
    assert all(url.startswith("https://") for url in urls)
    assert len(set(urls)) == len(urls)


def test_a_prefix_is_that_of_the_file_name(sources: dict[str, Source]) -> None:
    prefixed = {
        name: source
        for name, source in sources.items()
        if (source.checksum or "").startswith("sha256-prefix")
    }
    assert len(prefixed) >= 4
    for source in prefixed.values():
        assert Path(source.url).stem.split("-")[-1] == (source.checksum or "").partition(":")[2]


@pytest.mark.slow  # to import
def test_torchvision_and_timm_name_the_same_files(sources: dict[str, Source]) -> None:
    import timm
    import torchvision

    models = torchvision.models
    assert sources["vgg16-bn"].url == models.VGG16_BN_Weights.IMAGENET1K_V1.url
    assert sources["lpips-vgg16"].url == models.VGG16_Weights.IMAGENET1K_V1.url
    assert (sources["lpips-vgg16"].checksum or "").startswith("sha256:397923af")
    cifar = torchvision.datasets.CIFAR10
    assert (sources["cifar10"].url, sources["cifar10"].checksum) == (cifar.url, f"md5:{cifar.tgz_md5}")
    for name, model in {
        "tf-efficientnet-lite0": "tf_efficientnet_lite0.in1k",
        "deit-base-distilled-patch16-224": "deit_base_distilled_patch16_224.fb_in1k",
        "tf-efficientnet-b0-ns": "tf_efficientnet_b0.ns_jft_in1k",
        "vit-base-patch16-224": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    }.items():
        assert sources[name].url == timm.get_pretrained_cfg(model).url


GOOD = {
    "use": "x",
    "url": "https://a.b/c",
    "path": "d/e.pkl",
    "bytes": None,
    "checksum": None,
    "licence": "y",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "ftp://a.b/c"}, "sources.one.url"),
        ({"url": "https://a.b"}, "sources.one.url"),
        ({"path": "../x"}, "sources.one.path"),
        ({"path": "/x"}, "sources.one.path"),
        ({"path": "a//x"}, "sources.one.path"),
        ({"path": "a/.x"}, "sources.one.path"),
        ({"path": "lock.yaml"}, "must not end in"),
        ({"path": "x.part"}, "must not end in"),
        ({"checksum": "md5:12"}, "sources.one.checksum"),
        ({"checksum": "sha512:12"}, "sources.one.checksum"),
        ({"bytes": 0}, "sources.one.bytes"),
        ({"sha256": "12"}, "unknown key 'sources.one.sha256'"),
        ({"checksum": ...}, "the key 'sources.one.checksum' is missing"),
    ],
)
def test_mistakes(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    entry = {key: value for key, value in (GOOD | change).items() if value is not ...}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": {"one": entry}}))
    with pytest.raises(UserError) as caught:
        load_sources(tmp_path)
    assert words in str(caught.value)


def test_two_files_cannot_have_one_place(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": {"one": GOOD, "two": GOOD}}))
    with pytest.raises(UserError, match=r"'one' and 'two' have the same path, d/e\.pkl"):
        load_sources(tmp_path)
