"""Small files of the formats that others publish, and a server of them on loopback."""

from __future__ import annotations

import functools
import http.server
import io
import tarfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from edm_writer import Foreign
from inception_stand_in import StandIn, save_script

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.files import sha256
from gdd.metrics.inception import InceptionExtractor
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import seeded_weights

ARCH: dict[str, Any] = {
    "model_type": "SongUNet",
    "img_resolution": 32,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "augment_dim": 9,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
TEACHER = "edm-cifar10-32x32-uncond-ve"
IMAGES = 100
METRICS = ["fid", "inception_score", "kid", "precision", "recall", "density", "coverage", "clean_fid"]


def one_setting(table: dict[str, Any]) -> None:
    """Cut a table down to the one setting that is made small, and to what that is judged by."""
    table["settings"] = ["cifar10-uncond"]
    table["columns"] = [name for name in table["columns"] if name not in ("clip_fid", "fd_dinov2")]


class Server:
    """Serves a folder as `http://127.0.0.1:<port>/<host>/<path>`, and counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def place(self, url: str) -> Path:
        """Return the file that is served for a URL."""
        path = self.folder / (urlsplit(url).netloc + urlsplit(url).path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def write_cifar(path: Path, images: np.ndarray) -> None:
    files = {"batches.meta.txt": "".join(f"class-{number}\n" for number in range(10)).encode()}
    for index, part in enumerate(np.split(images, 5), start=1):
        rows = part.transpose(0, 3, 1, 2).reshape(len(part), -1)
        labels = np.arange(len(part), dtype=np.uint8) % 10
        files[f"data_batch_{index}.bin"] = np.column_stack([labels, rows]).tobytes()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_teacher(path: Path, class_name: str = "EDMPrecond") -> None:
    with seeded_weights(0):
        denoiser = Denoiser(parse(Architecture, ARCH, "here"))
    buffers = {name for name, _ in denoiser.named_buffers()}
    with pytest.MonkeyPatch.context() as monkeypatch:
        maker = Foreign(monkeypatch, False)
        maker.write(path, maker.network(ARCH, denoiser.state_dict(), buffers, class_name=class_name))


def write_inception(path: Path) -> None:
    with seeded_weights(1):
        save_script(StandIn(3, 2, 16), path)


def write_statistics(path: Path, images: np.ndarray, inception: Path) -> None:
    features = (
        InceptionExtractor(inception, trusted=[sha256(inception)])(torch.from_numpy(images)).double().numpy()
    )
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
