"""Train the occlusion network and write its weights: `python -m tools.occlusion.train`.

Needs, besides Muster and its packs `compact` and `samples`: torch 2.13.0 (the CPU's is enough) and
scikit-image 0.26.0 for its pictures. One thread, about ten minutes, the same weights for a seed on
the same machine.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.data import lfw_subset
from torch import Tensor
from torch.nn import functional

from models.face_models import open_models
from models.occlusion.estimator import INPUT, WEIGHTS
from models.occlusion.regions import region_weights
from tools.occlusion.examples import Example, example
from tools.occlusion.faces import photographs, sample_faces, small_faces
from tools.occlusion.network import OcclusionNet
from tools.occlusion.occluders import KINDS
from tools.occlusion.onnx_graph import write_graph

BATCH = 64


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    kinds = [kind for kind in KINDS if kind not in arguments.without]
    faces = open_models()
    # Two persons in three are of the many small pictures, one of the few sharp ones.
    pictures = lfw_subset()
    small, sharp = list(small_faces(faces, pictures)), list(sample_faces(faces))
    pool = [*small, *sharp * round(len(small) / len(sharp) / 2)]
    scenes = photographs([*small, *sharp], pictures)
    print(f"{len({face.person for face in pool})} people, kinds: {', '.join(kinds)}")
    net = OcclusionNet()
    print(f"{sum(values.numel() for values in net.parameters())} weights")

    def batch() -> list[Example]:
        return [example(pool, scenes, rng, kinds) for _ in range(BATCH)]

    train(net, batch, arguments.steps)
    write_graph(net, arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


def train(net: OcclusionNet, batch: Callable[[], list[Example]], steps: int) -> None:
    """AdamW with one cycle of the learning rate over `steps` batches."""
    weights = torch.from_numpy(region_weights())
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    began, losses = time.monotonic(), []
    for step in range(steps):
        pixels, covered, counts = _tensors(batch())
        logits = net(pixels)
        loss = _loss(logits, covered, counts, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49:
            elapsed = time.monotonic() - began
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.4f}, {elapsed:.0f} s", flush=True)


def _loss(logits: Tensor, covered: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the cells, those of the face counting double, and the regions' error."""
    importance = counts * (1 + (weights.sum(0) > 0).float().view(1, 1, *counts.shape[2:]))
    cells = (
        functional.binary_cross_entropy_with_logits(
            logits, covered, weight=importance, reduction="sum"
        )
        / importance.sum()
    )
    errors = ((torch.sigmoid(logits) - covered) * counts).flatten(1) @ weights.T
    return cells + errors.abs().mean()


def _tensors(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (n, 1, 56, 56) as the network takes them; covered, counts (n, 1, CELLS, CELLS)."""
    small = [cv2.resize(one.chip, INPUT.size, interpolation=cv2.INTER_AREA) for one in examples]
    pixels = (np.stack(small)[:, np.newaxis].astype(np.float32) - INPUT.mean) / INPUT.divisor
    covered = np.stack([one.covered for one in examples])[:, np.newaxis]
    counts = np.stack([one.counts for one in examples])[:, np.newaxis]
    return _tensor(pixels), _tensor(covered), _tensor(counts)


def _tensor(values: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=29794)
    parser.add_argument("--steps", type=int, default=1100, help=f"batches of {BATCH}")
    parser.add_argument("--without", nargs="*", default=[], choices=list(KINDS), metavar="KIND")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
