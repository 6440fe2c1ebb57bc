from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from inception_stand_in import ResidualStandIn, StandIn

from gdd.config.evaluation import spaces
from gdd.errors import DivergedError, UserError
from gdd.files import sha256
from gdd.metrics import judging
from gdd.metrics.by_name import make_extractor
from gdd.metrics.evaluation import evaluate_block
from gdd.metrics.extractors import PixelExtractor
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.image_sets import open_image_set
from gdd.metrics.inception import InceptionExtractor
from gdd.metrics.judges import open_judges
from gdd.metrics.judging import evaluate_source, settle_counts
from gdd.metrics.reference import build_reference
from gdd.metrics.sources import open_source
from gdd.networks.checkpoint import one_step_from_denoiser, save_network
from gdd.networks.seeded import seeded_weights

pytestmark = pytest.mark.slow

EVERYTHING = "fid,kid,precision,recall,density,coverage,inception_score,clean-fid,pixel_recall,nearest"


@dataclass(frozen=True)
class Setup:
    """A generator of 8x8 images, the network that judges it, and a data set's references."""

    folder: Path
    generator: Path
    network: Path
    references: Path
    real: np.ndarray

    def judges(self, source: Any, metrics: str = "fid", **options: Any) -> Any:
        """Open what the command line would open."""
        weights = {"inception": self.network, "inception-clean": self.network}
        settings = {
            "weights": weights,
            "config": self.folder,
            "resources": self.folder,
            "reference": self.references,
        }
        return open_judges(source, wanted=spaces(metrics.split(","), "inception"), **(settings | options))


@pytest.fixture(scope="module")
def setup(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("judging")
    save_network(folder / "g.safetensors", one_step_from_denoiser(world.teachers[False]), dataset="blobs")
    with seeded_weights(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(StandIn(2, 2, 11).eval()).save(folder / "net.pt")
    real = open_source(folder / "g.safetensors", seed=9).images(0, 80).numpy() // 2 + 60
    for name, path in (("inception", "net.pt"), ("inception-clean", "net.pt"), ("pixels", None)):
        extractor = make_extractor(folder / path if path else None, _Shape(), name)
        build_reference(
            real, extractor, dataset="blobs", dataset_sha256="a" * 64, path=folder / "blobs" / f"{name}.npz"
        )
    return Setup(folder, folder / "g.safetensors", folder / "net.pt", folder / "blobs", real)


class _Shape:
    shape = (1, 8, 8)


def test_one_pass_gives_everything_and_says_what_it_is(setup: Setup, tmp_path: Path) -> None:
    source = open_source(setup.generator)
    judges = setup.judges(source, EVERYTHING)
    assert judges.keys() == {"inception", "inception-clean", "pixels"}
    outcome = evaluate_source(source, judges, tmp_path / "out.json", samples=40, blocks=3)
    assert json.loads((tmp_path / "out.json").read_text()) == outcome
    names = set(EVERYTHING.replace("-", "_").split(","))
    assert outcome["mean"].keys() == names | {"inception_score_std"}
    assert [block["start"] for block in outcome["blocks"]] == [0, 40, 80]
    assert outcome["definitions"].keys() == names
    values = [block["fid"] for block in outcome["blocks"]]
    assert outcome["mean"]["fid"] == pytest.approx(np.mean(values))
    assert outcome["sampling_std"]["fid"] == pytest.approx(np.std(values, ddof=1))
    assert outcome["minimum"]["fid"] == min(values)
    assert "40 generated images against 80 of blobs" in outcome["definitions"]["fid"]
    assert "clean-fid" in outcome["definitions"]["clean_fid"]
    assert "clean-fid" not in outcome["definitions"]["precision"]
    assert (outcome["kind"], outcome["samples"], outcome["evaluations"]) == ("generator", 40, 1)
    assert outcome["references"]["pixels"]["dataset"] == "blobs"
    assert outcome["floor"].keys() <= names
    assert str(setup.folder) not in (tmp_path / "out.json").read_text()

    direct = evaluate_block(
        source.images, start=40, count=40, batch=40,
        references={"i": (judges["inception"].extractor, judges["inception"].reference)}, metrics={"fid", "kid"},
    )["i"]  # fmt: skip
    assert (values[1], outcome["blocks"][1]["kid"]) == (direct["fid"], direct["kid"])


def test_a_block_that_is_done_is_not_done_again(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(setup.generator)
    judges = setup.judges(source)
    seen: list[int] = []
    original = judging.evaluate_block

    def count(*args: Any, start: int, **options: Any) -> Any:
        seen.append(start)
        if fail and start == 24:
            raise KeyboardInterrupt
        return original(*args, start=start, **options)

    monkeypatch.setattr(judging, "evaluate_block", count)
    fail = True
    with pytest.raises(KeyboardInterrupt):
        evaluate_source(source, judges, tmp_path / "out.json", samples=24, blocks=2)
    assert not (tmp_path / "out.json").exists()
    fail = False
    first = evaluate_source(source, judges, tmp_path / "out.json", samples=24, blocks=2)
    assert seen == [0, 24, 24]
    again = evaluate_source(source, judges, tmp_path / "out.json", samples=24, blocks=3)
    assert seen == [0, 24, 24, 48]
    assert again["blocks"][:2] == first["blocks"]
    # Other inputs: another seed, another metric.
    evaluate_source(open_source(setup.generator, seed=1), judges, tmp_path / "out.json", samples=24, blocks=1)
    evaluate_source(source, setup.judges(source, "kid"), tmp_path / "out.json", samples=24, blocks=1)
    assert seen == [0, 24, 24, 48, 0, 0]


@pytest.mark.parametrize("batch", [7, 300])
def test_the_generators_batch_changes_next_to_nothing(setup: Setup, tmp_path: Path, batch: int) -> None:
    fids = []
    for size in (40, batch):
        source = open_source(setup.generator, batch=size)
        out = tmp_path / f"{size}.json"
        fids.append(evaluate_source(source, setup.judges(source), out, samples=40, blocks=1)["mean"]["fid"])
    assert fids[1] == pytest.approx(fids[0], rel=1e-5)


def test_the_order_of_the_same_bytes_changes_nothing(setup: Setup, tmp_path: Path) -> None:
    images = open_source(setup.generator).images(0, 300).numpy()
    order = np.random.default_rng(0).permutation(300)
    found = {}
    for name, array in (("as they come", images), ("shuffled", images[order])):
        np.savez(tmp_path / f"{name}.npz", images=array)
        source = open_image_set(tmp_path / f"{name}.npz")
        judges = setup.judges(source, "fid,precision,recall")
        found[name] = evaluate_source(source, judges, tmp_path / f"{name}.json", samples=300, blocks=1)[
            "mean"
        ]
    for metric, value in found["as they come"].items():
        assert found["shuffled"][metric] == pytest.approx(value, rel=1e-9)


@pytest.mark.slow
def test_order_changes_nothing_behind_a_residual_network(tmp_path: Path) -> None:
    with seeded_weights(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(ResidualStandIn(16, 64, 11).eval()).save(tmp_path / "net.pt")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, 600, 32, 32, 3), dtype=np.uint8)
    images[1] = images[1] // 2 + 40
    extractor = InceptionExtractor(tmp_path / "net.pt")
    reference = build_reference(
        images[0], extractor, dataset="noise", dataset_sha256="a" * 64, path=tmp_path / "inception.npz"
    )
    found = []
    for order in (np.arange(600), random.permutation(600)):
        shuffled = torch.from_numpy(images[1][order])
        block = evaluate_block(
            lambda first, count, of=shuffled: of[first : first + count],  # type: ignore[misc]
            start=0, count=600, batch=judging.EXTRACTION_BATCH,
            references={"i": (extractor, reference)}, metrics={"fid"},
        )  # fmt: skip
        found.append(block["i"]["fid"])
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_published_statistics_are_a_reference_for_the_distance_alone(setup: Setup, tmp_path: Path) -> None:
    extractor = InceptionExtractor(setup.network)
    moments = Moments(8)
    moments.update(extractor(torch.from_numpy(setup.real)))
    real = moments.gaussian()
    path = tmp_path / "blobs-8x8.npz"
    np.savez(path, mu=real.mean.numpy(), sigma=real.covariance.numpy())
    source = open_source(setup.generator)
    outcome = evaluate_source(
        source, setup.judges(source, reference=path), tmp_path / "out.json", samples=40, blocks=1
    )
    fakes = Moments(8)
    fakes.update(extractor(source.images(0, 40)))
    assert outcome["mean"]["fid"] == pytest.approx(frechet_distance(fakes.gaussian(), real), rel=1e-9)
    assert "against published statistics of blobs" in outcome["definitions"]["fid"]
    assert outcome["references"]["inception"]["count"] is None
    assert outcome["references"]["inception"]["dataset"] == "blobs"
    assert outcome["floor"] == {}

    with pytest.raises(UserError, match=r"published statistics of blobs .* allow no precision"):
        evaluate_source(
            source,
            setup.judges(source, "fid,precision", reference=path),
            tmp_path / "o.json",
            samples=40,
            blocks=1,
        )
    shutil.copy(path, tmp_path / "cifar10-8x8.npz")
    with pytest.raises(UserError, match="of the data set cifar10, the images are of blobs"):
        setup.judges(source, reference=tmp_path / "cifar10-8x8.npz")
    assert setup.judges(source, reference=tmp_path / "cifar10-8x8.npz", dataset="cifar10")
    shutil.copy(path, tmp_path / "blobs-32x32.npz")
    with pytest.raises(UserError, match="at resolution 32, the images at 8"):
        setup.judges(source, reference=tmp_path / "blobs-32x32.npz")
    with pytest.raises(UserError, match="are of inception, not of inception-clean"):
        setup.judges(source, "clean_fid", reference=path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(UserError, match="are of 3 features, the extractor inception gives 8"):
        setup.judges(source, reference=path)


def test_an_adm_batch_is_images_and_statistics(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "VIRTUAL_blobs_labeled.npz"
    np.savez(path, arr_0=setup.real, mu=np.zeros(8), sigma=np.eye(8))
    images = open_image_set(path)
    assert images.count == 80
    made = build_reference(
        images.images(0, 80).numpy(), InceptionExtractor(setup.network),
        dataset="blobs", dataset_sha256=images.sha256, path=tmp_path / "inception.npz",
    )  # fmt: skip
    assert made.description.count == 80
    source = open_source(setup.generator)
    judges = setup.judges(source, reference=path, dataset="VIRTUAL_blobs_labeled")
    assert judges["inception"].reference.gaussian.dimension == 8
    assert setup.judges(source, "precision", reference=tmp_path / "inception.npz")


def test_how_many_images(tmp_path: Path, setup: Setup) -> None:
    assert settle_counts(open_source(setup.generator), None, None) == (50_000, 3)
    assert settle_counts(open_source(setup.generator), 10, 2) == (10, 2)
    np.savez(tmp_path / "few.npz", images=setup.real)
    few = open_image_set(tmp_path / "few.npz")
    with pytest.raises(UserError, match=r"holds 80 images instead of the usual 50,000.* say --samples 80"):
        settle_counts(few, None, None)
    assert settle_counts(few, 80, None) == (80, 1)
    assert settle_counts(few, 20, None) == (20, 3)
    with pytest.raises(UserError, match="too few for 1 x 81"):
        settle_counts(few, 81, None)
    with pytest.raises(UserError, match="too few for 3 x 40"):
        settle_counts(few, 40, 3)


def test_misuse(setup: Setup, tmp_path: Path, world: Any) -> None:
    source = open_source(setup.generator)
    with pytest.raises(UserError, match="no metric 'lpips'; there are: fid, kid"):
        spaces(["lpips"], "inception")
    with pytest.raises(UserError, match="is one file, but inception and pixels are needed"):
        setup.judges(source, "fid,pixel_fid", reference=setup.references / "inception.npz")
    with pytest.raises(UserError, match=r"clip\.npz does not exist; build it with `gdd reference`"):
        setup.judges(source, "clip_fid")
    with pytest.raises(UserError, match="of the data set blobs, the images are of ffhq"):
        setup.judges(source, dataset="ffhq")
    np.savez(tmp_path / "large.npz", images=np.zeros((40, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match="at resolution 8, the images at 16"):
        setup.judges(open_image_set(tmp_path / "large.npz"))
    with pytest.raises(UserError, match="8 images are too few for a Frechet distance on 8 features"):
        evaluate_source(source, setup.judges(source), tmp_path / "out.json", samples=8, blocks=1)
    with pytest.raises(UserError, match=r"made by the extractor inception-clean .* not by inception"):
        setup.judges(source, reference=setup.references / "inception-clean.npz")
    broken = one_step_from_denoiser(world.teachers[False])
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    save_network(tmp_path / "broken.safetensors", broken)
    source = open_source(tmp_path / "broken.safetensors")
    with pytest.raises(DivergedError, match="NaN or infinity"):
        evaluate_source(source, setup.judges(source), tmp_path / "out.json", samples=40, blocks=1)


def test_fetched_extractors_are_verified(setup: Setup, tmp_path: Path) -> None:
    entry = {
        "use": "judging", "url": "https://example.org/net.pt", "path": "metrics/net.pt", "bytes": None,
        "checksum": f"sha256:{sha256(setup.network)}", "licence": "none",
    }  # fmt: skip
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": {"inception": entry}}))
    source = open_source(setup.generator)
    fetched = {"weights": {}, "config": tmp_path, "resources": tmp_path / "resources"}
    with pytest.raises(UserError, match="which is not there; run `gdd fetch inception`"):
        setup.judges(source, **fetched)
    place = tmp_path / "resources" / "metrics" / "net.pt"
    place.parent.mkdir(parents=True)
    shutil.copy(setup.network, place)
    assert setup.judges(source, **fetched)["inception"].extractor.sha256 == sha256(setup.network)
    place.write_bytes(place.read_bytes() + b"!")
    with pytest.raises(UserError, match="is not the expected file: its SHA-256 is"):
        setup.judges(source, **fetched)
    with pytest.raises(UserError, match="'judge-x' is no published extractor"):
        shutil.copy(setup.references / "inception.npz", tmp_path / "judge-x.npz")
        open_judges(source, tmp_path, spaces(["fid"], "judge-x"), **fetched)  # type: ignore[arg-type]


def test_pixels_need_no_weights(setup: Setup) -> None:
    judges = setup.judges(open_source(setup.generator), "pixel_fid", weights={})
    assert isinstance(judges["pixels"].extractor, PixelExtractor)


def test_definitions_name_the_real_images_that_were_searched(setup: Setup, tmp_path: Path) -> None:
    extractor = InceptionExtractor(setup.network)
    build_reference(
        setup.real, extractor, dataset="blobs", dataset_sha256="a" * 64, path=tmp_path / "inception.npz", kept=50
    )  # fmt: skip
    source = open_source(setup.generator)
    judges = setup.judges(source, "fid,kid", reference=tmp_path)
    found = evaluate_source(source, judges, tmp_path / "out.json", samples=40, blocks=1)["definitions"]
    assert "against 80 of blobs" in found["fid"]
    assert "against 50 evenly spaced ones of 80 of blobs" in found["kid"]


def test_a_broken_file_of_a_block_is_named(setup: Setup, tmp_path: Path) -> None:
    source = open_source(setup.generator)
    (tmp_path / "out.block0.json").write_text('{"inputs":')
    with pytest.raises(UserError, match=r"out\.block0\.json is not valid JSON"):
        evaluate_source(source, setup.judges(source), tmp_path / "out.json", samples=40, blocks=1)
