"""Each kind of record: what it refuses, in which words, and what it works out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from short_recipe import RECIPE

from gdd.config.architecture import Architecture
from gdd.config.config import SCHEMAS
from gdd.config.local import Local
from gdd.config.recipe import PartialRecipe, Recipe, TeacherRecipe
from gdd.config.record import parse, read_yaml
from gdd.config.records import Dataset, Evaluation, FeatureNetwork
from gdd.errors import UserError

CONFIG = Path(__file__).resolve().parents[3] / "config"
SONG = {"model_type": "SongUNet", "img_resolution": 32, "model_channels": 32, "channel_mult": [1, 2]}
ADM = {"model_type": "DhariwalUNet", "img_resolution": 32, "model_channels": 64, "channel_mult": [1, 2]}
SOURCE = {"use": "", "url": "https://a.b/c", "path": "d", "bytes": None, "checksum": None, "licence": ""}
KINDS: dict[str, tuple[Any, Any]] = {
    "recipe": (Recipe, RECIPE),
    "part": (PartialRecipe, {}),
    "teacher": (TeacherRecipe, {"images": 100, "batch": 10, "lr": 1e-3, "ema": {"half_life": 10}}),
    "song": (Architecture, SONG),
    "adm": (Architecture, ADM),
    "photos": (
        Dataset,
        {"title": "", "source": "folder", "transform": "resize", "resolution": 8, "channels": 3, "images": 9, "classes": 3},
    ),
    "network": (FeatureNetwork, read_yaml(CONFIG / "features" / "digits-random.yaml")),
    "table": (SCHEMAS["ablations"], {"title": "", "setting": "x", "rows": {"A": {"method": "gdd"}}, "columns": ["fid"]}),
    "sources": (SCHEMAS["sources"], {"sources": {"one": SOURCE}}),
    "local": (Local, {}),
    **{kind: (SCHEMAS[kind], read_yaml(CONFIG / file)) for kind, file in {
        "config": "config.yaml",
        "settings": "settings/digits.yaml",
        "teachers": "teachers/digits.yaml",
        "methods": "methods/gdd.yaml",
        "external": "external/sid.yaml",
    }.items()},
}  # fmt: skip
KEYS = ", ".join(sorted(Recipe.model_fields))
POLICIES = "'none', 'conv', 'conv+qkv', 'conv+qkv+skip' or 'norms-only', or a list"
GROUPS = "'batch' ({}) cannot be divided into groups of 'heads.norm_group' ({}) images; make it a multiple"
NO_TRAINING = "a row with '{}' trains nothing: leave out '{}'"

# (kind, key, what is put there (... removes it), what the sentence says)
REFUSED = [
    ("config", "seed", 0, "unknown key 'seed'; allowed here: seeds, targets"),
    ("config", "seeds", [0, -1], "'seeds.1' is -1: input should be greater than or equal to 0"),
    ("config", "seeds", [], "'seeds' is []: it needs at least one entry"),
    ("config", "targets.demo.page", "A page", "'targets.demo.page' is 'A page': a name has to be letters, digits,"),
    ("config", "targets.x", {"title": "", "page": "index", "tables": ["a"]}, "'x' and 'demo' have the same page"),
    ("photos", "source", "mnist", "'source' is 'mnist': input should be 'digits'"),
    ("photos", "channels", 1, "'channels' has to be 3"),
    ("photos", "source", "cifar10", "the source 'cifar10' knows no 'transform'"),
    ("photos", "source_images", 30, "'source_images' belongs to a 'part'"),
    ("photos", "part", {"first_shuffled": 3}, "a 'part' needs 'source_images'"),
    ("photos", "part", {}, "a part is either 'one_in' with 'take', or 'first_shuffled'"),
    ("photos", "part", {"one_in": 3}, "a part is either"),
    ("photos", "part", {"first_shuffled": 3, "one_in": 3, "take": "rest"}, "a part is either"),
    ("song", "img_resolution", 9, "img_resolution 9 cannot be halved 1 times"),
    ("song", "model_channels", 6, "a layer of 18 channels, which group normalisation cannot split"),
    ("song", "model_channels", 48, "gives a layer of 144 channels"),
    ("song", "channel_mult", [], "'channel_mult' is"),
    ("song", "dropout", 1.0, "'dropout' is 1.0"),
    ("song", "decoder_type", "skip", "'decoder_type' is 'skip'"),
    ("adm", "encoder_type", "residual", "encoder_type is an option of SongUNet"),
    ("adm", "model_channels", 224, "a level of 224 channels attends, but they do not split into 3 heads"),
    ("recipe", "backbones", [], "a distributional objective needs at least one network in 'backbones'"),
    ("recipe", "backbones", ["a", "a"], "'backbones' is ['a', 'a']: 'a' stands twice"),
    ("recipe", "batch", 96, GROUPS.format(96, 64)),
    ("recipe", "heads", {"norm_group": 48}, GROUPS.format(64, 48)),
    ("recipe", "images", 63, "'images' (63) is less than one 'batch' (64)"),
    ("recipe", "images", 0, "'images' is 0: input should be greater than 0"),
    ("recipe", "snapshot_every", 1001, "'snapshot_every' (1001) exceeds 'images' (1000)"),
    ("recipe", "freeze", "cnov", f"'freeze' is 'cnov': input should be {POLICIES}"),
    ("recipe", "freeze", ["a", 1], "'freeze.1' is 1: input should be a valid string"),
    ("recipe", "lr.generator", 0, "'lr.generator' is 0: input should be greater than 0"),
    ("recipe", "lr.generator", ..., "the key 'lr.generator' is missing"),
    ("recipe", "lr", 1e-3, "'lr' is 0.001: input should be keys and values"),
    ("recipe", "adam", {"beta2": 1.0}, "'adam.beta2' is 1.0: input should be less than 1"),
    ("recipe", "objective", {}, "'objective': an objective needs 'distributional' (softplus, hinge), 'instance' ("),
    ("recipe", "objective", {"instance": "progressive", "pairs": 3}, "'pairs' belongs to 'instance': direct"),
    ("recipe", "objective", {"instance": "direct", "grid": 4}, "'grid' belongs to 'instance': progressive, consistency, "),
    ("recipe", "objective.distance", "lpips", "'distance' belongs to 'instance': direct, progressive, "),
    ("recipe", "objective.instance", "progressive", "down to single steps, which 18 do not allow; give a power of two"),
    ("recipe", "objective", {"instance": "progressive", "grid": 1}, "which 1 do not allow"),
    ("recipe", "objective", {"instance": "consistency-trajectory", "grid": 1}, "needs a 'grid' of at least 2 steps"),
    ("recipe", "augment", {"target": 0.5}, "'augment': 'target' belongs to 'kind: ada'"),
    ("recipe", "augment", {"kind": "diffaugment", "speed_kimg": 100}, "'speed_kimg' belongs to 'kind: ada'"),
    ("recipe", "augment", {"kind": "ada", "policies": ["color"]}, "'policies' belongs to 'kind: diffaugment'"),
    ("recipe", "augment", {"kind": "diffaugment", "policies": ["color", "color"]}, "'color' stands twice"),
    ("recipe", "augment", {"kind": "ada", "target": 1}, "'augment.target' is 1: input should be less than 1"),
    ("part", "bacth", 1, f"unknown key 'bacth'; allowed here: {KEYS}"),
    ("part", "r1.gama", 0, "unknown key 'r1.gama'; allowed here: every, gamma"),
    ("part", "batch", 0, "'batch' is 0: input should be greater than 0"),
    ("teacher", "images", 9, "'images' (9) is less than one 'batch' (10)"),
    ("teacher", "p_mean", float("nan"), "input should be a finite number"),
    ("teachers", "architecture.widht", 3, "unknown key 'architecture.widht'; allowed here: attn_"),
    ("teachers", "architecture.img_resolution", 9, "'architecture': img_resolution 9 cannot be halved 1 times"),
    ("teachers", "published", "edm", "give exactly one of 'published', 'training'"),
    ("settings", "methods.gdd-i.frezee", "conv", f"unknown key 'methods.gdd-i.frezee'; allowed here: {KEYS}"),
    ("settings", "evaluation.metrics", ["kid"], "'metrics' needs 'fid'"),
    ("settings", "evaluation.metrics", ["fid"], "'pixels' adds to the usual metrics"),
    ("settings", "evaluation.dataset", "x", "'pixels' compares pixels with the training images"),
    ("settings", "resources.rates.cpu.at_once", 3, "'at_once' belongs to every card"),
    ("methods", "colour", "red", "'colour' is 'red': string should match pattern '^#[0-9a-f]{6}$'"),
    ("methods", "objective.loss", "hinge", "unknown key 'objective.loss'; allowed here: distance, "),
    ("external", "settings", {}, "it needs at least one entry"),
    ("external", "evaluations", 1, "'evaluations' belongs to images"),
    ("table", "rows.A", None, "'rows.A' is empty: input should be keys and values"),
    ("table", "rows.A.lr.gen", 1.0, "unknown key 'rows.A.lr.gen'; allowed here: discriminator, generator"),
    ("table", "rows.A", {}, "'rows.A': give exactly one of 'method', 'teacher_steps', 'external'"),
    ("table", "rows.A.teacher_steps", 3, "'rows.A': give exactly one of"),
    ("table", "rows.A", {"teacher_steps": 3, "freeze": "conv"}, NO_TRAINING.format("teacher_steps", "freeze")),
    ("table", "rows.A", {"external": "sid", "batch": 8}, NO_TRAINING.format("external", "batch")),
    ("table", "columns", ["fid", "fidd"], "'columns.1' is 'fidd': "),
    ("table", "setting", ..., "give exactly one of 'setting', 'settings'"),
    ("table", "settings", ["x"], "give exactly one of 'setting', 'settings'"),
    ("table", "rows", ..., "give exactly one of 'rows', 'grid'"),
    ("table", "grid", {"method": ["gdd"]}, "give exactly one of 'rows', 'grid'"),
    ("sources", "sources.one.url", "ftp://a.b/c", "sources.one.url"),
    ("sources", "sources.one.url", "https://a.b", "sources.one.url"),
    ("sources", "sources.one.path", "../x", "sources.one.path"),
    ("sources", "sources.one.path", "/x", "sources.one.path"),
    ("sources", "sources.one.path", "a/.x", "sources.one.path"),
    ("sources", "sources.one.path", "lock.yaml", "must not end in"),
    ("sources", "sources.one.checksum", "md5:12", "sources.one.checksum"),
    ("sources", "sources.one.bytes", 0, "sources.one.bytes"),
    ("sources", "sources.one.checksum", ..., "the key 'sources.one.checksum' is missing"),
    ("local", "partitoin", "gpu", "unknown key 'partitoin'; allowed here: "),
    ("local", "nodes", 2, "'nodes' is 2, so 'gpus' has to be a multiple of it"),
    ("local", "card", "12 gigabytes", "'card' is '12 gigabytes'"),
    ("local", "mirrors", {"https://x/": "ftp://y/"}, "'mirrors.https://x/' is 'ftp://y/'"),
    ("local", "mirrors", {"https://x/": "file://host/y"}, "is 'file://host/y'"),
    ("local", "scratch", "disk", "'scratch' is 'disk'"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "key", "value", "sentence"), REFUSED)
def test_refused_in_one_sentence(kind: str, key: str, value: Any, sentence: str) -> None:
    record, good = KINDS[kind]
    data = inner = copy.deepcopy(good)
    *path, last = key.split(".")
    for part in path:
        inner = inner.setdefault(part, {})
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    with pytest.raises(UserError, match=r"^some\.yaml: .*\.$") as caught:
        parse(record, data, "some.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_changed_above_is_right(kind: str) -> None:
    assert parse(*KINDS[kind], "some.yaml")


# Architectures


def test_the_families_have_their_defaults() -> None:
    song, adm = parse(Architecture, SONG, "a.yaml"), parse(Architecture, ADM, "b.yaml")
    assert (song.blocks_per_level, song.attention_resolutions) == (4, (16,))
    assert (adm.blocks_per_level, adm.attention_resolutions) == (3, (32, 16, 8))
    assert [adm.attention_heads(width) for width in (32, 64, 96, 128, 192)] == [0, 1, 1, 2, 3]
    assert parse(Architecture, {**SONG, "attn_resolutions": []}, "a.yaml").attention_resolutions == ()


# Recipes


def test_defaults_are_the_papers() -> None:
    recipe = parse(Recipe, RECIPE, "some.yaml")
    # GDD (arXiv:2405.20750): Adam(0, 0.99), lazy R1 every 16 iterations, EMA with a ramp of 0.05.
    assert (recipe.adam.beta1, recipe.adam.beta2) == (0.0, 0.99)
    assert (recipe.r1.gamma, recipe.r1.every, recipe.ema.ramp) == (1e-4, 16, 0.05)
    assert (recipe.init, recipe.freeze, recipe.precision, recipe.reuse_fakes) == (
        "teacher",
        "none",
        "float32",
        False,
    )


def test_keys_that_came_later_leave_earlier_recipes_as_they_were() -> None:
    recipe = parse(Recipe, RECIPE, "some.yaml")
    keys = ("projections", "backbone_statistics", "renoise", 'cutout":')
    assert not any(f'"{key}' in recipe.canonical() for key in keys)
    written_down = {"heads": {"projections": 1}, "backbone_statistics": "published", "renoise": True}
    assert parse(Recipe, RECIPE | written_down, "some.yaml").fingerprint() == recipe.fingerprint()
    for change in (
        {"heads": {"projections": 4}},
        {"backbone_statistics": "release"},
        {"renoise": False},
        {"augment": {"kind": "diffaugment", "cutout": 0.2}},
    ):
        other = parse(Recipe, RECIPE | change, "some.yaml")
        assert other.fingerprint() != recipe.fingerprint()
        assert parse(Recipe, other.model_dump(mode="json"), "run.json") == other


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"augment": {"kind": "ada"}}, "'augment' belongs to a 'distributional' objective"),
        ({"generator_steps": 2}, "'instance: direct' ties one noise to one image"),
    ],
)
def test_an_instance_objective_alone(change: dict[str, Any], sentence: str) -> None:
    alone = RECIPE | {"objective": {"instance": "direct"}, "backbones": []}
    assert parse(Recipe, alone, "some.yaml").backbones == ()
    with pytest.raises(UserError, match=sentence):
        parse(Recipe, alone | change, "some.yaml")


@given(images=st.integers(64, 5000), every=st.integers(1, 5000))
def test_the_last_snapshot_is_the_end_of_the_run(images: int, every: int) -> None:
    every = min(every, images)
    snapshots = parse(Recipe, RECIPE | {"images": images, "snapshot_every": every}, "some.yaml").snapshots()
    assert snapshots == sorted({*range(every, images, every), images})


def test_any_key_of_a_part_may_be_left_out() -> None:
    for key, value in RECIPE.items():
        assert parse(PartialRecipe, {key: value}, "some.yaml").model_fields_set == {key}
    assert parse(PartialRecipe, {"lr": {"generator": 0.1}}, "some.yaml").lr.model_fields_set == {"generator"}
    # Checks of several keys wait for the whole.
    parse(PartialRecipe, {"batch": 3, "objective": {"pairs": 3}}, "some.yaml")
    part = parse(PartialRecipe, {"objective": {"distributional": None}}, "some.yaml")
    assert part.objective.model_fields_set == {"distributional"}


# Others


def test_the_usual_metrics() -> None:
    evaluation = Evaluation(extractor="judge", pixels=True, samples=3)
    assert evaluation.wanted_on_curves() == ("fid", "pixel_fid")
    assert evaluation.extractors() == ["judge", "pixels"]
    listed = Evaluation(extractor="inception", samples=3, metrics=("fid", "clip_fid", "clean_fid", "kid"))
    assert listed.wanted_on_curves() == ("fid",)
    assert listed.extractors() == ["inception", "clip", "inception-clean"]


def test_scratch_takes_variables_and_no_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    assert Local(scratch="$NODE_DISK/x").scratch_folder() == tmp_path / "x"
    assert Local(scratch="~/x").scratch_folder() == Path.home() / "x"
    monkeypatch.delenv("NODE_DISK")
    with pytest.raises(UserError, match="give an absolute path"):
        Local(scratch="$NODE_DISK/x").scratch_folder()
