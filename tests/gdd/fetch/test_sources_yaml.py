"""config/sources.yaml: complete, unique, and true to what is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gdd.config.config import load_config
from gdd.config.local import Local
from gdd.config.sources import Source
from gdd.experiments import Experiments
from gdd.files import sha256
from gdd.stages.inputs import external_source

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    return dict(load_config(ROOT / "config").sources)


def test_all_teachers_are_there(sources: dict[str, Source]) -> None:
    cifar = {f"edm-cifar10-32x32-{kind}-{arch}" for kind in ("cond", "uncond") for arch in ("ve", "vp")}
    faces = {f"edm-{data}-64x64-uncond-{arch}" for data in ("ffhq", "afhqv2") for arch in ("ve", "vp")}
    teachers = {name for name, source in sources.items() if source.path.startswith("teachers/")}
    assert teachers == cifar | faces | {"edm-imagenet-64x64-cond-adm"}
    for name in teachers:
        assert sources[name].url == f"https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/{name}.pkl"
    # NVIDIA publishes none; one teacher's is known from those who measured it.
    assert [name for name in sorted(teachers) if sources[name].checksum] == ["edm-cifar10-32x32-uncond-vp"]


def test_the_class_embeddings_are_those_of_the_published_file(sources: dict[str, Source]) -> None:
    file = Path(__file__).resolve().parents[4] / "shared/real/stylegan-xl-tf_efficientnet_lite0.pkl"
    if not file.is_file():
        pytest.skip("the published class embeddings are not part of this checkout")
    source = sources["stylegan-xl-class-embeddings"]
    assert (source.bytes, source.checksum) == (file.stat().st_size, f"sha256:{sha256(file)}")


def test_what_is_published_at_plain_addresses_is_fetched(papers: Experiments) -> None:
    sid = papers.config.external["sid"]
    assert set(sid.settings) == {"cifar10-uncond", "cifar10-cond", "afhqv2", "ffhq", "imagenet"}
    for setting in sid.settings:
        source = external_source(replace(papers.config, local=Local()), setting, "sid")
        assert source
        assert papers.config.sources[source].path == f"external/{source}.pkl"
    assert papers.config.sources["cifar10"].url.endswith("/cifar-10-binary.tar.gz")  # no pickles


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
def test_timm_names_the_same_files(sources: dict[str, Source]) -> None:
    import timm

    for name, model in {
        "tf-efficientnet-lite0": "tf_efficientnet_lite0.in1k",
        "deit-base-distilled-patch16-224": "deit_base_distilled_patch16_224.fb_in1k",
        "tf-efficientnet-b0-ns": "tf_efficientnet_b0.ns_jft_in1k",
        "vit-base-patch16-224": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    }.items():
        assert sources[name].url == timm.get_pretrained_cfg(model).url
