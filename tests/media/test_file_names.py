"""Names of files beyond ASCII, for a Python that takes them for ASCII, as the one within Triton's stub does whatever the locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

_PROGRAM = """
import sys
from pathlib import Path
from ernie_backend.config import EngineConfig
from ernie_backend.media.fetch import Fetcher, FetchPolicy
from ernie_backend.protocol import MediaKind

assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
config = EngineConfig.from_json_file(sys.argv[1])
assert (Path(config.model) / "config.json").is_file()
fetcher = Fetcher(FetchPolicy(local_root=config.allowed_local_media_path))
print(len(fetcher.fetch(bytes.fromhex(sys.argv[2]).decode(), MediaKind.IMAGE)))
"""


@pytest.mark.parametrize("escaped", [False, True])
def test_a_model_and_an_image_in_folders_beyond_ascii(tmp_path: Path, escaped: bool) -> None:
    model, images = tmp_path / "modèle 图", tmp_path / "bilder-ü"
    model.mkdir()
    images.mkdir()
    (model / "config.json").write_text("{}")
    (images / "图 1.gif").write_bytes(b"GIF89a" + bytes(20))
    settings = tmp_path / "engine.json"
    settings.write_text(json.dumps({"model": str(model), "allowed_local_media_path": str(images)}))
    url = f"file://{quote(str(images / '图 1.gif')) if escaped else images / '图 1.gif'}"
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", _PROGRAM, str(settings), url.encode().hex()]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.split() == ["26"]
