"""What a GPU of this machine, or a core, gets done in a second: as probed here, else as a setting says."""

from __future__ import annotations

from dataclasses import dataclass

from gdd.config.config import Config
from gdd.config.local import CPU, USUAL_GB
from gdd.config.probed import Probe, probe_of, read_probe
from gdd.config.records import Rate

UNKNOWN = "unknown"
PROBED = "probed here"


@dataclass(frozen=True)
class Known:
    """A rate, and what its training and the rest of it are known from, in words."""

    rate: Rate
    training: str
    rest: str


def known_rate(config: Config, setting: str, *, gpu: bool, share: int | None = None) -> Known | None:
    """Return a setting's rate on a GPU of this machine or on a core; None if nobody knows.

    `share` is the part of a batch that a GPU has: with fewer images at once it is slower.

    Raises:
        UserError: local.yaml names a card that was not probed.
    """
    probe = probe_of(config.local.card) if gpu else read_probe(CPU)
    return _as_probed(config, probe, setting, share) or _as_written(config, probe, setting, gpu=gpu)


def _as_probed(config: Config, probe: Probe | None, setting: str, share: int | None) -> Known | None:
    tf32 = config.local.tf32
    of = probe.of(setting, config.settings[setting].like) if probe else None
    training = of.training_rate(share, tf32=tf32 and bool(probe and probe.gb)) if of else None
    if of is None or training is None or probe is None:
        return None
    rate = Rate(
        training=training,
        generating=of.generating,
        evaluating=of.evaluating,
        at_once=of.at_once(tf32=tf32) if probe.gb else None,
        known="measured",
        source=f"gdd probe, {of.provenance.get('date')}",
    )
    return Known(rate, PROBED, PROBED)


def _as_written(config: Config, probe: Probe | None, setting: str, *, gpu: bool) -> Known | None:
    """Return what the setting says of the largest card that is not larger than this machine's."""
    rates, card = config.settings[setting].resources.rates, config.local.card
    if not gpu:
        return _in_words(rates[CPU], "") if CPU in rates else None
    gb = probe.gb if probe else card if isinstance(card, int) else USUAL_GB
    smaller = [of for of in (int(name.split()[0]) for name in rates if name != CPU) if of <= gb]
    if not smaller:
        return None
    like = max(smaller)
    return _in_words(rates[f"{like} GB"], "" if like == gb else f" for a card of {like} GB")


def _in_words(rate: Rate, of: str) -> Known:
    if rate.known == "measured":
        return Known(rate, f"measured elsewhere{of}", f"measured elsewhere{of}")
    return Known(rate, f"{rate.known}{of}", f"estimated{of}")  # others report nothing but their training
