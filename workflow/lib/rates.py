"""What a GPU of this machine, or a core, gets done in a second: as probed here, else as a setting says."""

from __future__ import annotations

from dataclasses import dataclass

from gdd.config.config import Config
from gdd.config.local import CPU, USUAL_GB
from gdd.config.probed import Probe, newest_card, probe_file, read_probe
from gdd.config.records import Rate
from gdd.errors import UserError

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
    probe = probe_of(config) if gpu else read_probe(CPU)
    return _as_probed(config, probe, setting, share) or _as_written(config, probe, setting, gpu=gpu)


def probe_of(config: Config) -> Probe | None:
    """Return what was measured on the card of local.yaml, by its name or its memory, or on the newest one.

    Raises:
        UserError: local.yaml names a card that was not probed.
    """
    card = config.local.card
    name = card if isinstance(card, str) else newest_card(card)
    probe = read_probe(name) if name else None
    if probe is None and isinstance(card, str):
        raise UserError(
            f"local.yaml: 'card' is {card}, but there is no {probe_file(card)}; run `gdd probe` on a machine "
            "that has this card, or give its memory in GB."
        )
    return probe


def _as_probed(config: Config, probe: Probe | None, setting: str, share: int | None) -> Known | None:
    settings, tf32 = probe.settings if probe else {}, config.local.tf32
    of = settings.get(setting) or settings.get(config.settings[setting].like or "")
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
