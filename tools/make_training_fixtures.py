#!/usr/bin/env python3
"""Write what PyTorch computes of losses and optimisers, for the tests of training.

    pip install torch==2.15.0
    python make_training_fixtures.py --out fixtures/training

pytorch.json: all numbers are f64, as PyTorch computed them in f64 on one thread.
cross_entropy: logits, targets (-100 does not count), options, loss and gradient of the logits.
mean_squared_error: prediction, target, option, loss and gradient of the prediction.
optimizers: from one model (a matrix and a bias), the gradients of each step, the learning rate of each
step, the norm to clip to, and after each step the norm that was clipped and the parameters.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

SEED = 20200608
STEPS = 5
OPTIMIZERS = [
    ("AdamW", torch.optim.AdamW, {}),
    ("AdamW", torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
    ("AdamW", torch.optim.AdamW, {"betas": (0.3, 0.5), "weight_decay": 0.0}),
    ("SGD", torch.optim.SGD, {}),
    ("SGD", torch.optim.SGD, {"momentum": 0.9}),
    ("SGD", torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


def cross_entropy_cases():
    for smoothing in (0.0, 0.1, 1.0):
        for reduction in ("mean", "sum"):
            logits = (4 * torch.randn(5, 7)).requires_grad_()
            targets = torch.tensor([3, -100, 0, 6, -100])
            loss = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction=reduction)
            loss.backward()
            yield {"label_smoothing": smoothing, "reduction": reduction, "logits": logits.tolist(),
                   "targets": targets.tolist(), "loss": loss.item(), "gradient": logits.grad.tolist()}


def mean_squared_error_cases():
    for reduction in ("mean", "sum"):
        prediction = torch.randn(3, 4).requires_grad_()
        target = torch.randn(3, 4)
        loss = F.mse_loss(prediction, target, reduction=reduction)
        loss.backward()
        yield {"reduction": reduction, "prediction": prediction.tolist(), "target": target.tolist(),
               "loss": loss.item(), "gradient": prediction.grad.tolist()}


def optimizer_cases():
    for name, build, options in OPTIMIZERS:
        for clip in (None, 1.5):
            weight = torch.randn(2, 3).requires_grad_()
            bias = torch.randn(2).requires_grad_()
            case = {"optimizer": name, "options": options, "clip": clip,
                    "weight": weight.tolist(), "bias": bias.tolist(), "steps": []}
            optimizer = build([weight, bias], lr=0.0, **options)
            for step in range(STEPS):
                # the first with large gradients, later ones with gradients that clipping leaves alone
                size = 4.0 / 3.0 ** step
                weight.grad, bias.grad = size * torch.randn(2, 3), size * torch.randn(2)
                done = {"lr": 0.1 / (step + 1), "weight_gradient": weight.grad.tolist(),
                        "bias_gradient": bias.grad.tolist()}
                if clip is not None:
                    done["norm"] = torch.nn.utils.clip_grad_norm_([weight, bias], clip).item()
                optimizer.param_groups[0]["lr"] = done["lr"]
                optimizer.step()
                done.update(weight=weight.tolist(), bias=bias.tolist())
                case["steps"].append(done)
            yield case


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("fixtures/training"),
                        help="folder to write into (default: fixtures/training)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(SEED)
    fixtures = {
        "torch": torch.__version__,
        "cross_entropy": list(cross_entropy_cases()),
        "mean_squared_error": list(mean_squared_error_cases()),
        "optimizers": list(optimizer_cases()),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "pytorch.json"
    path.write_text(json.dumps(fixtures) + "\n")
    assert path.stat().st_size < 50_000, path.stat().st_size
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
