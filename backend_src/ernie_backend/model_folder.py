"""What the path of a model folder says, and where else one may be; opens no file of it."""

from __future__ import annotations

import os
from pathlib import Path


def name_of(folder: Path) -> str:
    """What the model in it is called: like the folder, or NAME in Hugging Face's cache (`models--baidu--NAME/snapshots/COMMIT`)."""
    folder = folder.absolute()
    of_cache = folder.parent.parent.name
    return of_cache.rpartition("--")[2] if of_cache.startswith("models--") and folder.parent.name == "snapshots" else folder.name


def model_folders_below(folder: Path) -> list[Path]:
    """Those that a user may have meant who gave `folder`: one that holds models, or one of Hugging Face's cache. Sorted."""
    patterns = ("*/config.json", "snapshots/*/config.json", "*/snapshots/*/config.json")
    return sorted({file.parent for pattern in patterns for file in folder.glob(pattern)})


def spelled_for_here(path: str) -> str:
    """A path from JSON as this Python finds it on a disk that names files in UTF-8, whatever encoding it assumes for file names."""
    return os.fsdecode(path.encode("utf-8", "surrogateescape"))
