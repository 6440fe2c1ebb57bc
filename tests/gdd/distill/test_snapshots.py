from __future__ import annotations

from pathlib import Path

from gdd.distill.snapshots import keep_only


def test_the_others_are_gone_in_both_places(tmp_path: Path) -> None:
    for place in ("snapshots", "state/snapshots", "samples"):
        (tmp_path / place).mkdir(parents=True)
        for images in (100, 200, 300):
            (tmp_path / place / f"{images:09d}.safetensors").touch()
    (tmp_path / "snapshots" / f"{100:09d}.safetensors").unlink()  # a call that was interrupted
    assert keep_only(tmp_path, {200, 300}) == [100]
    assert keep_only(tmp_path, {200, 300}) == []
    for place in ("snapshots", "state/snapshots"):
        assert sorted(int(path.stem) for path in (tmp_path / place).iterdir()) == [200, 300]
    assert len(list((tmp_path / "samples").iterdir())) == 3
