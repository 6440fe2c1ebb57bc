"""What names in the configuration stand for: records, fetched files, and published networks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo

from gdd.errors import UserError, did_you_mean

# Published networks that need no training here, and their files in sources.yaml.
BACKBONES = {  # of the projected discriminator, by timm's or torchvision's name
    "vgg16_bn": "vgg16-bn",
    "tf_efficientnet_lite0": "tf-efficientnet-lite0",
    "deit_base_distilled_patch16_224": "deit-base-distilled-patch16-224",
    "vit_base_patch16_224": "vit-base-patch16-224",
    "tf_efficientnet_b0_ns": "tf-efficientnet-b0-ns",
}
EXTRACTORS = {  # of features for metrics; two of them are one file, seen through two resizes
    "inception": "inception",
    "inception-clean": "inception",
    "clip": "clip-vit-b-32",
    "dinov2": "dinov2-vit-l-14",
}
FEATURES = {"inception": 2048, "inception-clean": 2048, "clip": 512, "dinov2": 1024}
CLASS_EMBEDDINGS = {"stylegan-xl": "stylegan-xl-class-embeddings"}  # of a conditional discriminator
LPIPS = "lpips-vgg16"  # the trunk of LPIPS

TEACHER_ENCODER = "teacher-encoder"  # a backbone that comes from the run's own teacher instead of a file


# What everything in the configuration may be called: names become words of shell lines and parts of paths.
NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
NAME_IN_WORDS = "letters, digits, '_', '.', '+' and '-', of which a letter or digit comes first"


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(f"a name has to be {NAME_IN_WORDS}")
    return name


Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": f"^{NAME}$"})]


class Named(dict[str, Any]):
    """Things by name, and the `place` in config/ that names them."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def __missing__(self, name: str) -> Any:
        there = f"{did_you_mean(name, self)}there are: {', '.join(self) or 'none'}"
        raise UserError(f"There is no '{name}' in {self.place}; {there}.")


def _name_of(kind: str, also: Iterable[str] = ()) -> AfterValidator:
    """Annotates text that has to be the name of a record of a kind, or one of `also`.

    It is looked up in the names that `parse` is given.
    """

    def check(name: str, info: ValidationInfo) -> str:
        if info.context is not None and name not in (there := [*info.context[kind], *also]):
            place = info.context[kind].place
            known = f"{did_you_mean(name, there)}there are: {', '.join(there) or 'none'}"
            raise ValueError(f"no such file in {place}; {known}")
        return name

    return AfterValidator(check)


DatasetName = Annotated[str, _name_of("datasets")]
TeacherName = Annotated[str, _name_of("teachers")]
SettingName = Annotated[str, _name_of("settings")]
MethodName = Annotated[str, _name_of("methods")]
ExternalName = Annotated[str, _name_of("external")]
AblationName = Annotated[str, _name_of("ablations")]
SourceName = Annotated[str, _name_of("sources")]
RawDataName = Annotated[str, _name_of("raw_data")]
BackboneName = Annotated[str, _name_of("features", also=(TEACHER_ENCODER, *BACKBONES))]
ExtractorName = Annotated[str, _name_of("features", also=EXTRACTORS)]
