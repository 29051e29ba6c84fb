"""Version directories of the committed models, as the weight store lays them out."""

import json
import shutil
from pathlib import Path

from blake3 import blake3

MODELS = Path(__file__).parents[2] / "models"
WEIGH_TOOL = {
    "type": "function",
    "function": {
        "name": "weigh_truck",
        "description": "Weigh one truck on the scale.",
        "parameters": {
            "type": "object",
            "properties": {"truck": {"type": "integer"}},
            "required": ["truck"],
        },
    },
}


def make_version(model: str, target: Path) -> str:
    """A version directory as the weight store lays it out; the digest of its manifest."""
    target.mkdir()
    files = []
    for source in sorted((MODELS / model).iterdir()):
        if source.name == "reference.json":
            continue
        shutil.copy(source, target)
        content = source.read_bytes()
        files.append(
            {"path": source.name, "size": len(content), "digest": blake3(content).hexdigest()}
        )
    manifest = json.dumps({"files": files}).encode()
    (target / "weighbridge-manifest.json").write_bytes(manifest)
    return blake3(manifest).hexdigest()


def reference(model: str) -> dict:
    return json.loads((MODELS / model / "reference.json").read_text(encoding="utf-8"))


def list_files_anew(folder: Path) -> str:
    """Make the manifest true again after a test changed files; the new digest."""
    path = folder / "weighbridge-manifest.json"
    manifest = json.loads(path.read_bytes())
    for entry in manifest["files"]:
        entry["size"] = (folder / entry["path"]).stat().st_size
    path.write_text(json.dumps(manifest))
    return blake3(path.read_bytes()).hexdigest()
