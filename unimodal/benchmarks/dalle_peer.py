"""DALLE-pytorch drawing codes of pictures, timed; run by `benchmarks.draw` in a process of its own.

    PYTHONPATH=FOLDER python -P unimodal/benchmarks/dalle_peer.py JSON

FOLDER holds dalle-pytorch 1.6.6 and what it imports for its model (`pip install --no-deps --target
FOLDER dalle-pytorch axial-positional-embedding rotary-embedding-torch g-mlp-pytorch ftfy`). Its
pretrained image tokenizers are not needed and are left out. Nothing of ours is imported here.
"""

import importlib
import json
import sys
import time
import types
from typing import Any

import torch


def without_pretrained() -> None:
    """Stand-ins for what only pretrained image tokenizers need: they are never called."""
    for name in ("taming", "taming.models", "taming.models.vqgan", "youtokentome", "pkg_resources"):
        sys.modules.setdefault(name, types.ModuleType(name))
    vqgan: Any = sys.modules["taming.models.vqgan"]
    vqgan.VQModel = vqgan.GumbelVQ = object
    resources: Any = sys.modules["pkg_resources"]
    if not hasattr(resources, "get_distribution"):
        resources.get_distribution = lambda name: types.SimpleNamespace(version="1.6.6")


def build(facts: dict[str, int]) -> Any:
    """The model of the given width, depth, heads, codes and text length."""
    without_pretrained()
    # By name: it is no dependency, and lies in a folder of its own.
    peer = importlib.import_module("dalle_pytorch")
    side = round(facts["codes"] ** 0.5)
    vae = peer.DiscreteVAE(
        image_size=4 * side, num_layers=2, num_tokens=facts["size"], codebook_dim=8, hidden_dim=8
    )
    return peer.DALLE(
        dim=facts["width"],
        vae=vae,
        num_text_tokens=facts["text_size"],
        text_seq_len=facts["prompt"],
        depth=facts["depth"],
        heads=facts["heads"],
        dim_head=facts["head_dim"],
    ).eval()


def main() -> int:
    """Print seconds of the fastest run, by batch and guidance."""
    facts = json.loads(sys.argv[1])
    torch.set_num_threads(facts["threads"])
    torch.manual_seed(0)
    model = build(facts)
    found = []
    for batch in facts["batches"]:
        text = torch.randint(1, facts["text_size"], (batch, facts["prompt"]))
        for guidance in (1.0, facts["guidance"]):
            best = float("inf")
            for _ in range(facts["repeats"]):
                start = time.perf_counter()
                with torch.no_grad():
                    model.generate_images(text, cond_scale=guidance, use_cache=True)
                best = min(best, time.perf_counter() - start)
            found.append({"batch": batch, "guidance": guidance, "seconds": best})
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
