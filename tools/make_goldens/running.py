"""The forward and backward passes of a model of any package."""

import torch

from bert_models import build_bert, run_bert
from fairseq_models import build_fairseq, run_fairseq
from lucidrains import build_lucid
from tatp22 import build_tat
from tensors import draw, encode

FIRST = ("x", "tokens", "Q")


def build(peer, config, heads=None):
    if peer == "lucidrains":
        model = build_lucid(config)
    elif peer == "tatp22":
        model = build_tat(config)
    elif peer == "bert":
        model = build_bert(config)
    else:
        model = build_fairseq(config, heads or {})
    return model.double().eval()


def run(peer, model, inputs, config):
    """The forward call. Inputs are cloned: tatp22's masks write into what they are given."""
    inputs = {name: value.clone() if not value.requires_grad else value
              for name, value in inputs.items()}
    if peer == "bert":
        return run_bert(model, inputs)
    if peer == "fairseq":
        return run_fairseq(model, inputs, config)
    if "enc_num_tokens" in config:
        return model(inputs.pop("x"), inputs.pop("y"), **inputs)
    if "Q" in inputs:
        return model(inputs.pop("Q"), inputs.pop("K"), inputs.pop("V"), **inputs)
    first = next(name for name in FIRST if name in inputs)
    return model(inputs.pop(first), **inputs)


def tied_names(model):
    groups = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def gradients(peer, model, inputs, config, generator, case):
    reversible = config.get("reversible", False)
    inputs = dict(inputs)
    wanted = [name for name in ("x", "context", "embeddings", "Q", "K", "V")
              if name in inputs and inputs[name].dtype == torch.float64]
    for name in wanted:
        inputs[name] = inputs[name].clone().requires_grad_()
    # lucidrains' reversible backward needs the generator state that only a training-mode
    # forward records; every dropout is 0 there, so the numbers are those of eval mode.
    model.train(reversible)
    output = run(peer, model, inputs, config)
    model.eval()
    weight = draw(generator, output.shape)
    model.zero_grad()
    (output * weight).sum().backward()
    case["output_gradient"] = encode(weight)
    if wanted:
        case["input_gradient"] = encode(inputs[wanted[0]].grad)
        for name in wanted[1:]:
            case[f"{name}_gradient"] = encode(inputs[name].grad)
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            found[name] = encode(parameter.grad)
    case["gradients"] = found
    tied = tied_names(model)
    if tied:
        case["tied"] = tied
