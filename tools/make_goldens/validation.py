"""Existing files, run again."""

import json
import warnings
from pathlib import Path

import torch

from fairseq_models import exact_f64, load_fairseq
from running import FIRST, build, run
from tatp22 import unsaved_projections
from tensors import decode


def validate(folder, peers):
    worst = {}
    for path in sorted(Path(folder).glob("*.json")):
        case = json.loads(path.read_text())
        if case["peer"] not in peers or "output" not in case:
            continue
        config = case["config"]
        model = build(case["peer"], config, case.get("classification_heads"))
        weights = {key: decode(value) for key, value in case["state_dict"].items()}
        load = load_fairseq if case["peer"] == "fairseq" else lambda m, w: m.load_state_dict(w)
        load(model, weights)
        if case["peer"] == "tatp22":
            for key, holders, which in unsaved_projections(model, config):
                for holder in holders:
                    setattr(holder, which, decode(case[key]))
        inputs = {key: decode(value) for key, value in case["inputs"].items()}
        with torch.no_grad():
            output = run(case["peer"], model, inputs, config)
        difference = (output - decode(case["output"])).abs().max().item()
        if case["peer"] == "fairseq" and "output_f64" in case:
            with exact_f64(), torch.no_grad():
                output = run(case["peer"], model, inputs, config)
            exact = (output - decode(case["output_f64"])).abs().max().item()
            worst["fairseq, f64"] = max(worst.get("fairseq, f64", 0.0), exact)
        worst[case["peer"]] = max(worst.get(case["peer"], 0.0), difference)
        print(f"{path.name:44} {difference:.1e}")
        if "gradients" in case:
            check_gradients(path.name, case, model, inputs, worst)
    print({peer: f"{value:.1e}" for peer, value in worst.items()})


def check_gradients(name, case, model, inputs, worst):
    peer, config = case["peer"], case["config"]
    with exact_f64() if peer == "fairseq" else warnings.catch_warnings():
        inputs = {key: value.requires_grad_() if value.dtype == torch.float64 else value
                  for key, value in inputs.items()}
        model.train(config.get("reversible", False))
        output = run(peer, model, inputs, config)
        (output * decode(case["output_gradient"])).sum().backward()
    difference = 0.0
    for key, parameter in model.named_parameters(remove_duplicate=False):
        if key in case["gradients"]:
            difference = max(difference,
                             (parameter.grad - decode(case["gradients"][key])).abs().max().item())
        else:
            assert parameter.grad is None, f"{name}: {key} has a gradient"
    if "input_gradient" in case:
        grad = inputs[next(key for key in FIRST if key in inputs)].grad
        difference = max(difference, (grad - decode(case["input_gradient"])).abs().max().item())
    worst[peer + ", gradients"] = max(worst.get(peer + ", gradients", 0.0), difference)
