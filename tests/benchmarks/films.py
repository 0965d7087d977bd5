"""The films that benchmarks run on."""

from pathlib import Path

import cv2

from demo.film import lobby_film
from models.types import BgrImage


def film_frames(work: Path) -> list[BgrImage]:
    """All frames of the lobby film, 1280×720."""
    film = cv2.VideoCapture(str(lobby_film(work)))
    frames: list[BgrImage] = []
    while (answer := film.read())[0]:
        frames.append(answer[1])
    film.release()
    return frames
