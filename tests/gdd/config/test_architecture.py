"""Architectures: the families' defaults, and the sentence for each thing that cannot be built."""

from __future__ import annotations

import pytest

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.errors import UserError

SONG = {"model_type": "SongUNet", "img_resolution": 32, "model_channels": 32, "channel_mult": [1, 2]}
ADM = {"model_type": "DhariwalUNet", "img_resolution": 32, "model_channels": 64, "channel_mult": [1, 2]}


def test_defaults_are_the_familys() -> None:
    song, adm = parse(Architecture, SONG, "a.yaml"), parse(Architecture, ADM, "b.yaml")
    assert (song.blocks_per_level, song.attention_resolutions) == (4, (16,))
    assert (adm.blocks_per_level, adm.attention_resolutions) == (3, (32, 16, 8))
    assert song.widths == (32, 64)
    assert song.resolutions == (32, 16)


def test_heads_of_adm_have_at_least_64_channels() -> None:
    arch = parse(Architecture, ADM, "a.yaml")
    assert [arch.attention_heads(width) for width in (32, 64, 96, 128, 192)] == [0, 1, 1, 2, 3]


def test_no_attention_is_not_the_default() -> None:
    assert parse(Architecture, {**SONG, "attn_resolutions": []}, "a.yaml").attention_resolutions == ()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({**SONG, "img_resolution": 9}, "img_resolution 9 cannot be halved 1 times"),
        (
            {**SONG, "model_channels": 6},
            "gives a layer of 18 channels, which group normalisation cannot split",
        ),
        ({**SONG, "model_channels": 48}, "gives a layer of 144 channels"),
        ({**SONG, "channel_mult": []}, "'channel_mult' is"),
        ({**SONG, "dropout": 1.0}, "'dropout' is 1.0"),
        ({**SONG, "decoder_type": "skip"}, "'decoder_type' is 'skip'"),
        ({**SONG, "width": 3}, "unknown key 'width'"),
        ({**ADM, "encoder_type": "residual"}, "encoder_type is an option of SongUNet"),
        (
            {**ADM, "model_channels": 224},
            "a level of 224 channels attends, but they do not split into 3 heads",
        ),
    ],
)
def test_what_cannot_be_built_is_one_sentence(data: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=r"^a\.yaml: ") as caught:
        parse(Architecture, data, "a.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
