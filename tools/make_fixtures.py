#!/usr/bin/env python3
"""Write a small lucidrains LinformerLM with what PyTorch computes with it.

    pip install torch==2.15.0 linformer==0.2.3 safetensors==0.8.0 numpy
    python make_fixtures.py --out fixtures

lucidrains_lm.safetensors: the untrained model's state dict in f32, from a fixed seed.
lucidrains_lm.json: its constructor's options, a text's bytes as tokens, and the logits of the
last positions, for the text (shorter than seq_len) as it stands.  The logits are f32 values as PyTorch
computed them in f32; `logits_f64` are the same from the same weights in f64.
"""

import argparse
import json
from pathlib import Path

import torch
from linformer import LinformerLM
from safetensors.torch import save_file

SEED = 20200608
CONFIG = {"num_tokens": 256, "dim": 32, "seq_len": 128, "depth": 2, "k": 16, "heads": 4}
TEXT = ("Self-attention is low rank: the matrix of its weights is close to one of "
        "much smaller rank, so linear time will do.")
POSITIONS = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("fixtures"),
                        help="folder to write into (default: fixtures)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)

    model = LinformerLM(**CONFIG).eval()
    tokens = torch.tensor([list(TEXT.encode())])
    assert tokens.shape[1] < CONFIG["seq_len"]
    with torch.no_grad():
        logits = model(tokens)[0, -POSITIONS:]
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        exact = model.double()(tokens)[0, -POSITIONS:]

    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "lucidrains_lm.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)
    assert path.stat().st_size < 300_000
    length = tokens.shape[1]
    (args.out / "lucidrains_lm.json").write_text(json.dumps({
        "peer": "lucidrains",
        "config": CONFIG,
        "text": TEXT,
        "tokens": tokens[0].tolist(),
        "positions": list(range(length - POSITIONS, length)),
        # nine digits identify an f32
        "logits": [[float(f"{value:.9g}") for value in row] for row in logits.tolist()],
        "logits_f64": exact.tolist(),
    }) + "\n")
    print(f"{path}: {path.stat().st_size} bytes; f32 and f64 differ by at most "
          f"{(logits.double() - exact).abs().max().item():.1e}")


if __name__ == "__main__":
    main()
