#!/usr/bin/env python3
"""Write golden cases: small models of three PyTorch Linformer packages, run once in f64.

One JSON file a case: the package (`peer`), the constructor's options (`config`), every tensor
of the state dict, the inputs and the output, and for some the gradients.  See README.md
beside the files for what each one covers.

    python make_goldens.py --out goldens                     lucidrains and tatp22
    python make_goldens.py --out goldens --fairseq fairseq-0.12.2   and fairseq
    python make_goldens.py --validate ../goldens [--fairseq ...]    re-run existing files

Versions the committed files were made with (Python 3.11):
    torch==2.15.0 numpy==2.4.6 linformer==0.2.3 linformer-pytorch==0.19.3 matplotlib==3.11.2
    fairseq==0.12.2, unpacked, not installed (pip download --no-deps --no-binary fairseq
    fairseq==0.12.2), which imports omegaconf==2.0.6 hydra-core==1.0.7 regex sacrebleu
    bitarray cffi tqdm

Weights, inputs and output gradients are multiples of 1/128, so that a test may store them as
f32 or f16 (weights also as bf16) without rounding; outputs have all digits.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import types
import warnings
import zlib
from pathlib import Path

import torch

DTYPES = {torch.float64: "f64", torch.float32: "f32", torch.int64: "i64", torch.bool: "bool"}


# ---------------------------------------------------------------------------- JSON

def encode(tensor):
    data = tensor.detach().cpu().reshape(-1)
    if tensor.dtype == torch.bool:
        data = data.to(torch.int64)
    return {"shape": list(tensor.shape), "dtype": DTYPES[tensor.dtype], "data": data.tolist()}


def decode(entry):
    dtype = {name: dtype for dtype, name in DTYPES.items()}[entry["dtype"]]
    return torch.tensor(entry["data"], dtype=dtype).reshape(entry["shape"])


# ---------------------------------------------------------------------------- random numbers

def draw(generator, shape, std=1.0, limit=4.0):
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * std
    return (values.clamp(-limit, limit) * 128).round() / 128


def randomise(model, generator):
    """Small random numbers everywhere: zero biases and unit norms would hide mistakes."""
    norms = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.LayerNorm)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in norms:
                parameter.copy_((1 + draw(generator, parameter.shape, 0.25)).clamp(0.25, 1.9))
            else:
                parameter.copy_(draw(generator, parameter.shape, 0.35, 1.0))


# ---------------------------------------------------------------------------- lucidrains

def build_lucid(config):
    import linformer
    from linformer.linformer import FeedForward
    if "num_tokens" in config:
        return linformer.LinformerLM(**config)
    if "depth" in config:
        return linformer.Linformer(**config)
    if "seq_len" in config:
        return linformer.LinformerSelfAttention(**config)
    config = dict(config)
    if "activation" in config:
        config["activation"] = getattr(torch.nn, config["activation"])
    return FeedForward(**config)


# ---------------------------------------------------------------------------- tatp22

def build_tat(config):
    import linformer_pytorch as tat
    if "enc_num_tokens" in config:
        return tat.LinformerEncDec(**config)
    if "num_tokens" in config:
        return tat.LinformerLM(**config)
    if "ff_dim" in config:
        return tat.FeedForward(**{"dropout": 0.0, **config})
    if "channels" in config and "dim" in config:
        config = {"dropout": 0.0, "checkpoint_level": "C0", "E_proj": None, "F_proj": None,
                  "full_attention": False, "causal_mask": None, **config}
        if config["parameter_sharing"] == "layerwise":
            make = lambda: tat.get_EF(config["input_size"], config["dim_k"],
                                      config.get("method", "learnable"), config["dim"])
            config["E_proj"], config["F_proj"] = make(), make()
        return tat.MHAttention(**config)
    if "channels" not in config:
        # a head takes its projections ready made; input_size, dim_k and method say how
        method = config.get("method", "learnable")
        make = lambda: tat.get_EF(config["input_size"], config["dim_k"], method, config["dim"])
        causal = None
        if config.get("causal"):
            from linformer_pytorch.linformer_pytorch import gen_causal_mask
            causal = gen_causal_mask(config["input_size"], config["dim_k"],
                                     config.get("full_attention", False))
        return tat.LinearAttentionHead(config["dim"], 0.0, make(), make(), causal,
                                       full_attention=config.get("full_attention", False))
    return tat.Linformer(**config)


def unsaved_projections(model, config):
    """The E and F of `method="no_params"`: plain tensors, so in no state dict.

    Yields (key, holder, attribute): E.{j} for the attention at seq.{j} where its heads share
    one matrix, E.{j}.{h} where each head has its own, E alone for a bare attention or head.
    """
    if config.get("method") != "no_params":
        return
    from linformer_pytorch import MHAttention, LinearAttentionHead
    if isinstance(model, LinearAttentionHead):
        yield "E", [model], "E"
        yield "F", [model], "F"
        return
    for name, module in model.named_modules():
        if not isinstance(module, MHAttention):
            continue
        index = [part for part in name.split(".") if part.isdigit()]
        place = "." + index[-1] if index else ""
        for which in "EF":
            if config.get("parameter_sharing", "layerwise") == "none":
                for h, head in enumerate(module.heads):
                    yield f"{which}{place}.{h}", [head], which
            else:
                yield f"{which}{place}", list(module.heads), which


def randomise_unsaved(model, config, generator):
    drawn = {}
    for _, holders, which in unsaved_projections(model, config):
        for holder in holders:
            old = getattr(holder, which)
            if id(old) not in drawn:  # keeps the tying; `old` is kept alive for its id
                drawn[id(old)] = (old, draw(generator, old.shape, 0.35, 1.0))
            setattr(holder, which, drawn[id(old)][1])


# ---------------------------------------------------------------------------- running

def build(peer, config, heads=None):
    if peer == "lucidrains":
        model = build_lucid(config)
    elif peer == "tatp22":
        model = build_tat(config)
    else:
        model = build_fairseq(config, heads or {})
    return model.double().eval()


FIRST = ("x", "tokens", "Q")


def run(peer, model, inputs, config):
    """The forward call. Inputs are cloned: tatp22's masks write into what they are given."""
    inputs = {name: value.clone() if not value.requires_grad else value
              for name, value in inputs.items()}
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


class Goldens:
    def __init__(self, out, only):
        self.out, self.only, self.made, self.lines = Path(out), only, [], []

    def add(self, name, peer, config, inputs, expect="match", grad=False, note=None,
            prepare=None, after=None, heads=None):
        """inputs: name -> shape (drawn), or a tensor.

        prepare(model) runs before the forward pass, after(case, model, inputs) before writing.
        """
        if self.only and self.only not in name:
            return
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        torch.manual_seed(0)
        model = build(peer, config, heads)
        randomise(model, generator)
        if peer == "tatp22":
            randomise_unsaved(model, config, generator)
        if prepare:
            prepare(model)
        values = {}
        for key, value in inputs.items():
            values[key] = draw(generator, value) if isinstance(value, (tuple, list)) else value
        with torch.no_grad():
            output = run(peer, model, values, config)
        case = {"peer": peer, "config": config}
        if expect:
            case["expect"] = expect
        if note:
            case["note"] = note
        state = fairseq_state(model) if peer == "fairseq" else model.state_dict()
        if heads:
            case["classification_heads"] = heads
        case["state_dict"] = {key: encode(value) for key, value in state.items()}
        case["inputs"] = {key: encode(value) for key, value in values.items()}
        case["output"] = encode(output)
        if peer == "tatp22":
            for key, holders, which in unsaved_projections(model, config):
                case[key] = encode(getattr(holders[0], which))
        if peer == "fairseq":
            with exact_f64(), torch.no_grad():
                case["output_f64"] = encode(run(peer, model, values, config))
        if grad:
            if peer == "fairseq":
                with exact_f64():
                    gradients(peer, model, values, config, generator, case)
            else:
                gradients(peer, model, values, config, generator, case)
        if after:
            after(case, model, values)
        for key in ("output", "output_f64", "input_gradient"):
            if key in case and not all(map(_finite, case[key]["data"])):
                raise SystemExit(f"{name}: {key} is not finite")
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{name}.json").write_text(json.dumps(case) + "\n")
        self.made.append(name)
        options = ", ".join(f"{key}={value!r}" for key, value in config.items())
        shapes = ", ".join(f"{key} {'x'.join(map(str, value.shape))}" for key, value in values.items())
        extra = "; gradients" if grad else ""
        self.lines.append(f"- `{name}` [{expect or 'undecided'}] {type(model).__name__}({options}); "
                          f"{shapes}{extra}" + (f". {note[0].upper() + note[1:]}." if note else ""))

    def write_list(self):
        """Put one line a file under the last heading of README.md, keeping what is above."""
        readme = self.out / "README.md"
        above = readme.read_text() if readme.exists() else "# Goldens\n"
        above = above.split("\n## Files\n")[0].rstrip("\n")
        readme.write_text(above + "\n\n## Files\n\n" + "\n".join(self.lines) + "\n")


def _finite(value):
    return value == value and abs(value) != float("inf")


def tokens(rows):
    return torch.tensor(rows, dtype=torch.int64)


def mask(*rows):
    return torch.tensor([[c == "1" for c in row] for row in rows])


# ---------------------------------------------------------------------------- the cases

def lucid_cases(g):
    add = lambda name, config, inputs, **kw: g.add("lucid_" + name, "lucidrains", config, inputs, **kw)
    x = {"x": (2, 10, 12)}

    # attention alone: width 12, 3 heads, 10 positions, k 4; head width 4, or 5 where given
    attn = dict(dim=12, seq_len=10, k=4, heads=3)
    add("attn_dim_head", {**attn, "dim_head": 5}, x)
    add("attn_dim_head_small", {**attn, "dim_head": 2}, x)
    add("attn_one_kv_dim_head", {**attn, "dim_head": 5, "one_kv_head": True}, x)
    add("attn_share_kv_dim_head", {**attn, "dim_head": 5, "share_kv": True}, x)
    add("attn_share_kv_one_kv", {**attn, "share_kv": True, "one_kv_head": True}, x)
    add("attn_share_kv_one_kv_dim_head",
        {**attn, "dim_head": 5, "share_kv": True, "one_kv_head": True}, x)
    add("attn_k_above_n", {**attn, "k": 13}, x)
    add("attn_k_equals_n", {**attn, "k": 10}, x)
    add("attn_k_one", {**attn, "k": 1}, x)
    add("attn_one_head", {**attn, "heads": 1}, x)
    add("attn_one_head_one_kv", {**attn, "heads": 1, "one_kv_head": True, "dim_head": 5}, x)
    add("attn_head_dim_one", {**attn, "heads": 12}, x)
    add("attn_batch_one", attn, {"x": (1, 10, 12)})
    add("attn_short_dim_head", {**attn, "dim_head": 5}, {"x": (2, 7, 12)})
    add("attn_short_share_kv", {**attn, "share_kv": True}, {"x": (2, 7, 12)})
    add("attn_short_one_kv", {**attn, "one_kv_head": True}, {"x": (2, 7, 12)})
    add("attn_short_of_one", attn, {"x": (2, 1, 12)})
    add("attn_short_below_k", attn, {"x": (2, 3, 12)})
    add("attn_context_shorter", attn, {"x": (2, 9, 12), "context": (2, 6, 12)})
    add("attn_context_longer", attn, {"x": (2, 3, 12), "context": (2, 10, 12)})
    add("attn_context_query_above_n", attn, {"x": (2, 13, 12), "context": (2, 8, 12)})
    add("attn_context_one_kv", {**attn, "one_kv_head": True, "dim_head": 5},
        {"x": (2, 4, 12), "context": (2, 9, 12)})
    add("attn_context_share_kv", {**attn, "share_kv": True}, {"x": (2, 4, 12), "context": (2, 9, 12)})
    add("attn_context_empty", attn, {"x": (2, 4, 12), "context": (2, 0, 12)},
        note="an empty sum: the output is the bias of to_out")
    add("attn_dropout_eval", {**attn, "dropout": 0.5}, x)
    add("attn_heads_default", dict(dim=16, seq_len=7, k=3), {"x": (2, 7, 16)})

    # feed-forward alone
    for mult in (1, 2, 3):
        for glu in (False, True):
            config = dict(dim=6, mult=mult, **({"glu": True} if glu else {}))
            add(f"ff_mult{mult}" + ("_glu" if glu else ""), config, {"x": (2, 5, 6)})
    add("ff_default", dict(dim=5), {"x": (2, 4, 5)})
    add("ff_relu", dict(dim=6, mult=2, activation="ReLU"), {"x": (2, 5, 6)}, expect="later",
        note="activation is a class in the package: torch.nn.ReLU; Linformer never sets it")

    # stacks
    stack = dict(dim=12, seq_len=10, k=4, heads=3)
    for depth in (1, 2, 3):
        for reversible in (False, True):
            r = {"reversible": True} if reversible else {}
            tail = "_rev" if reversible else ""
            add(f"linformer_depth{depth}{tail}", {**stack, "depth": depth, **r}, x)
    for reversible in (False, True):
        r = {"reversible": True} if reversible else {}
        tail = "_rev" if reversible else ""
        two = {**stack, "depth": 2, **r}
        add("linformer_one_kv" + tail, {**two, "one_kv_head": True}, x)
        add("linformer_share_kv" + tail, {**two, "share_kv": True}, x)
        add("linformer_dim_head" + tail, {**two, "dim_head": 5}, x)
        add("linformer_everything" + tail,
            {**two, "dim_head": 5, "one_kv_head": True, "share_kv": True}, x)
        add("linformer_short" + tail, two, {"x": (2, 6, 12)})
        add("linformer_k_above_n" + tail, {**two, "k": 13, "depth": 1}, x)

    # language models
    ids = tokens([[9, 6, 2, 5, 2, 8, 4, 1, 16, 0], [8, 0, 5, 16, 16, 3, 7, 11, 2, 13]])
    lm = dict(num_tokens=17, dim=6, seq_len=10, k=4, heads=3, depth=2)
    for reversible in (False, True):
        r = {"reversible": True} if reversible else {}
        tail = "_rev" if reversible else ""
        add("lm_default" + tail, {**lm, **r}, {"tokens": ids})
        add("lm_short" + tail, {**lm, **r}, {"tokens": ids[:, :7].contiguous()})
        add("lm_share_kv" + tail, {**lm, **r, "share_kv": True}, {"tokens": ids})
        add("lm_one_kv" + tail, {**lm, **r, "one_kv_head": True}, {"tokens": ids})
        add("lm_dim_head" + tail, {**lm, **r, "dim_head": 5}, {"tokens": ids})
    add("lm_one_token", lm, {"tokens": tokens([[3], [14]])})
    add("lm_depth1_everything", {**lm, "depth": 1, "dim_head": 5, "share_kv": True,
        "one_kv_head": True}, {"tokens": ids[:1].contiguous()})

    # gradients
    small = dict(dim=6, seq_len=7, k=4, heads=3)
    xs = {"x": (2, 7, 6)}
    add("attn_share_kv_grad", {**small, "share_kv": True}, xs, grad=True)
    add("attn_dim_head_grad", {**small, "dim_head": 5}, xs, grad=True)
    add("attn_share_kv_one_kv_grad", {**small, "dim_head": 5, "share_kv": True, "one_kv_head": True},
        xs, grad=True)
    add("attn_short_grad", small, {"x": (2, 5, 6)}, grad=True,
        note="the gradient of the unused rows of proj_k and proj_v is zero")
    add("attn_context_grad", small, {"x": (2, 5, 6), "context": (2, 6, 6)}, grad=True)
    add("ff_grad", dict(dim=6, mult=2), xs, grad=True)
    add("ff_glu_grad", dict(dim=6, mult=2, glu=True), xs, grad=True)
    add("linformer_rev_grad", {**small, "depth": 2, "reversible": True}, xs, grad=True)
    add("linformer_rev_share_kv_grad", {**small, "depth": 1, "reversible": True, "share_kv": True},
        xs, grad=True)
    add("linformer_share_kv_grad", {**small, "depth": 1, "share_kv": True}, xs, grad=True)
    add("lm_grad", {**lm, "depth": 1}, {"tokens": ids}, grad=True)
    add("lm_short_grad", {**lm, "depth": 1}, {"tokens": ids[:, :7].contiguous()}, grad=True)
    add("lm_rev_grad", {**lm, "depth": 1, "reversible": True}, {"tokens": ids}, grad=True)


def tat_cases(g):
    add = lambda name, config, inputs, **kw: g.add("tat_" + name, "tatp22", config, inputs, **kw)
    sharings = ("none", "headwise", "kv", "layerwise")
    # width 12, 3 heads of 4, 10 positions, k 5, feed-forward 20; head width 7 where given
    base = dict(input_size=10, channels=12, dim_k=5, dim_ff=20, nhead=3)
    x = {"x": (2, 10, 12)}

    # pieces
    add("ff_gelu", dict(input_channels=6, output_channels=9, ff_dim=20), {"x": (2, 5, 6)}, expect="later")
    add("ff_relu", dict(input_channels=6, output_channels=9, ff_dim=20, activation="relu"),
        {"x": (2, 5, 6)}, expect="later")
    add("ff_identity", dict(input_channels=6, output_channels=9, ff_dim=20, activation="tanh"),
        {"x": (2, 5, 6)}, expect="later", note="any name but gelu and relu means no activation")
    head = dict(dim=4, input_size=10, dim_k=5)
    qkv = {"Q": (2, 10, 4), "K": (2, 10, 4), "V": (2, 10, 4)}
    add("head_learnable", head, qkv, expect="later")
    add("head_learnable_cross", head, {**qkv, "Q": (2, 7, 4)}, expect="later")
    add("head_convolution", {**head, "dim_k": 4, "method": "convolution"}, qkv, expect="later")
    add("head_no_params", {**head, "method": "no_params"}, qkv, expect="later")
    add("head_full", {**head, "full_attention": True}, qkv, expect="later")
    add("head_mask", head, {**qkv, "input_mask": mask("1110110000", "0001111011")}, expect="later")
    add("head_causal", {**head, "causal": True}, qkv, expect="refuse",
        note="the n by k triangle leaks")
    mha = dict(input_size=10, dim=7, channels=12, dim_k=5, nhead=3)
    for sharing in sharings:
        note = ("layerwise in a bare attention means the caller's E_proj and F_proj, here two "
                "different ones") if sharing == "layerwise" else None
        for method in ("learnable", "convolution", "no_params"):
            extra = {} if method == "learnable" else {"method": method}
            add(f"mha_{sharing}" + ("" if method == "learnable" else f"_{method}"),
                {**mha, "parameter_sharing": sharing, **extra}, x, note=note, expect="later")
    add("mha_input_mask", {**mha, "parameter_sharing": "headwise"},
        {**x, "input_mask": mask("1111110000", "0110111011")}, expect="later")
    add("mha_w_o", {**mha, "parameter_sharing": "none", "w_o_intermediate_dim": 9}, x, expect="later")
    add("mha_full", {**mha, "parameter_sharing": "kv", "full_attention": True}, x, expect="later")
    add("mha_cross", {**mha, "parameter_sharing": "none", "decoder_mode": True},
        {**x, "embeddings": (2, 10, 12)})

    # sharing x method, two layers
    for sharing in sharings:
        config = {**base, "depth": 2, "parameter_sharing": sharing}
        add(f"{sharing}_learnable", config, x)
        add(f"{sharing}_conv", {**config, "method": "convolution"}, x,
            note="the kernel is 2 wide and divides n")
        add(f"{sharing}_conv_uneven", {**config, "method": "convolution", "dim_k": 4}, x,
            note="k 4 gives a kernel of 2 and 5 slots, not 4")
        add(f"{sharing}_conv_tail", {**config, "method": "convolution", "dim_k": 3}, x,
            note="the kernel is 3 wide; the last position is dropped")
        add(f"{sharing}_no_params", {**config, "method": "no_params"}, x,
            note="E and F are in no state dict: keys E.{j} and F.{j}, or E.{j}.{h} where each "
                 "head h has its own")
        add(f"{sharing}_dim_d", {**config, "dim_d": 7}, x)
        add(f"{sharing}_input_mask", config, {**x, "input_mask": mask("1111110000", "1111111111")})
        if sharing != "layerwise":
            add(f"{sharing}_k_reduce", {**config, "depth": 3, "k_reduce_by_layer": 2}, x,
                note="k is 5, 3, 1")
            add(f"{sharing}_ffint3", {**config, "depth": 3, "ff_intermediate": 16}, x)
    add("conv_one_slot", {**base, "method": "convolution", "dim_k": 1, "parameter_sharing": "kv"}, x)
    add("conv_k_reduce", {**base, "method": "convolution", "depth": 2, "dim_k": 5,
        "k_reduce_by_layer": 2, "parameter_sharing": "headwise"}, x, note="slots 5 then 3")
    add("conv_dim_d", {**base, "method": "convolution", "dim_d": 7, "parameter_sharing": "none"}, x)
    add("no_params_k_reduce", {**base, "method": "no_params", "depth": 2, "k_reduce_by_layer": 2,
        "parameter_sharing": "kv"}, x)
    add("k_reduce_to_one", {**base, "depth": 3, "k_reduce_by_layer": 4, "parameter_sharing": "kv"}, x,
        note="k is max(1, 5 - 4 i): 5, 1, 1")
    add("layerwise_k_reduce", {**base, "depth": 2, "k_reduce_by_layer": 2}, x, expect=None,
        note="the package ignores k_reduce_by_layer here: k is 5 in both layers")

    # widths
    add("w_o", {**base, "w_o_intermediate_dim": 9}, x)
    add("w_o_dim_d", {**base, "w_o_intermediate_dim": 9, "dim_d": 7, "depth": 2,
        "parameter_sharing": "none"}, x)
    add("ffint_wide", {**base, "depth": 3, "ff_intermediate": 18, "dim_d": 7,
        "parameter_sharing": "kv"}, x)
    add("ffint_depth1", {**base, "depth": 1, "ff_intermediate": 16, "parameter_sharing": "kv"}, x,
        expect=None,
        note="one layer: ff_intermediate has no effect and there is no resample")
    add("ffint_equal", {**base, "depth": 2, "ff_intermediate": 12, "parameter_sharing": "headwise"}, x,
        note="equal to channels: there is no resample")
    add("ffint_noff", {**base, "depth": 1, "ff_intermediate": 16, "include_ff": False,
        "parameter_sharing": "none"}, x, expect=None, note="ff_intermediate has no effect")
    add("ffint_mask", {**base, "depth": 2, "ff_intermediate": 16, "parameter_sharing": "headwise"},
        {**x, "input_mask": mask("1101111000", "1111111111")})
    add("ffint_w_o", {**base, "depth": 2, "ff_intermediate": 16, "w_o_intermediate_dim": 9,
        "parameter_sharing": "none"}, x)
    add("noff_depth3", {**base, "depth": 3, "include_ff": False, "parameter_sharing": "none"}, x)
    add("noff_relu_ignored", {**base, "include_ff": False, "activation": "relu"}, x, expect=None,
        note="no feed-forward, so activation has no effect")
    add("relu_depth2", {**base, "depth": 2, "activation": "relu", "parameter_sharing": "kv"}, x)
    add("depth1_defaults", base, x)
    add("depth3", {**base, "depth": 3}, x)
    add("odd_sizes", dict(input_size=11, channels=15, dim_k=6, dim_ff=7, nhead=5, depth=2,
        parameter_sharing="headwise"), {"x": (2, 11, 15)})
    add("one_head", dict(input_size=7, channels=5, dim_k=3, dim_ff=9, nhead=1, depth=2,
        parameter_sharing="kv"), {"x": (2, 7, 5)})
    add("nhead_default", dict(input_size=7, channels=8, dim_k=3, dim_ff=9), {"x": (2, 7, 8)})
    add("dim_d_not_dividing", dict(input_size=7, channels=8, dim_k=4, dim_ff=9, nhead=3, dim_d=5),
        {"x": (2, 7, 8)}, note="channels need not be a multiple of nhead once dim_d is given")
    add("k_above_n", {**base, "dim_k": 13, "depth": 2, "parameter_sharing": "headwise"}, x)
    add("k_equals_n", {**base, "dim_k": 10}, x)
    add("k_one", {**base, "dim_k": 1, "parameter_sharing": "none"}, x)
    add("dropout_eval", {**base, "dropout": 0.5, "dropout_ff": 0.5}, x)
    add("checkpoint_c1", {**base, "depth": 2, "checkpoint_level": "C1"}, x,
        note="same numbers as C0")
    add("checkpoint_c2", {**base, "depth": 1, "checkpoint_level": "C2"}, x,
        note="same numbers as C0")

    # masks
    two = {**base, "depth": 2}
    add("mask_holes", two, {**x, "input_mask": mask("1011010011", "0101111110")})
    add("mask_left", two, {**x, "input_mask": mask("0000111111", "0011111111")})
    add("mask_one_left", two, {**x, "input_mask": mask("1000000000", "0000000001")})
    add("mask_full_row", two, {**x, "input_mask": mask("0000000000", "1111111000")},
        note="the masked row attends to the biases of E and F")
    add("mask_full_row_no_params", {**two, "method": "no_params", "parameter_sharing": "kv"},
        {**x, "input_mask": mask("0000000000", "1111111000")},
        note="no bias: the masked row's attention is 0")
    add("mask_conv", {**two, "method": "convolution", "parameter_sharing": "headwise"},
        {**x, "input_mask": mask("1011010011", "1111110000")})
    add("mask_conv_tail", {**two, "method": "convolution", "dim_k": 3, "parameter_sharing": "none"},
        {**x, "input_mask": mask("0111111111", "1111100000")})
    add("mask_no_params", {**two, "method": "no_params", "parameter_sharing": "headwise"},
        {**x, "input_mask": mask("1011010011", "1111110000")})
    add("mask_depth3_dim_d", {**base, "depth": 3, "dim_d": 7, "parameter_sharing": "none"},
        {**x, "input_mask": mask("1111000000", "1011111001")})
    add("mask_noff", {**two, "include_ff": False, "parameter_sharing": "kv"},
        {**x, "input_mask": mask("1111000000", "1011111001")})
    add("mask_all_ones", two, {**x, "input_mask": mask("1111111111", "1111111111")})
    add("full_mask", {**two, "full_attention": True},
        {**x, "input_mask": mask("1111110000", "1011111001")}, expect=None,
        note="the package zeroes masked keys and values and leaves them in the softmax, "
             "where each has the score 0")
    add("full_mask_full_row", {**two, "full_attention": True},
        {**x, "input_mask": mask("0000000000", "1111111000")}, expect=None,
        note="as full_mask; the fully masked row's attention is 0")
    add("full_causal_mask", {**two, "full_attention": True, "causal": True},
        {**x, "input_mask": mask("1111110000", "1011111001")}, expect=None, note="as full_mask")
    add("full_dim_d", {**two, "full_attention": True, "dim_d": 7, "parameter_sharing": "none"}, x)
    add("full_conv", {**two, "full_attention": True, "method": "convolution",
        "parameter_sharing": "kv"}, x, note="E and F are saved and unused")
    add("full_no_params", {**two, "full_attention": True, "method": "no_params"}, x)
    add("full_causal_depth3", {**base, "depth": 3, "full_attention": True, "causal": True,
        "parameter_sharing": "headwise"}, x)
    add("embeddings_mask", two, {**x, "embeddings_mask": mask("1111110000", "1011111001")},
        expect=None, note="zeroes query rows: those positions attend with equal weights")
    for sharing in sharings:
        add(f"causal_{sharing}", {**base, "causal": True, "parameter_sharing": sharing}, x,
            expect="refuse", note="the n by k triangle leaks")
    add("causal_conv", {**base, "dim_k": 5, "causal": True, "method": "convolution",
        "parameter_sharing": "kv"}, x, expect="refuse", note="the n by k triangle leaks")

    # decoder, not causal
    memory = {**x, "embeddings": (2, 10, 12)}
    decoder = {**base, "decoder_mode": True}
    add("decoder", decoder, memory)
    add("decoder_depth2_none", {**decoder, "depth": 2, "parameter_sharing": "none"}, memory)
    add("decoder_noff", {**decoder, "include_ff": False, "parameter_sharing": "kv"}, memory)
    add("decoder_full", {**decoder, "full_attention": True}, memory)
    add("decoder_masks", {**decoder, "parameter_sharing": "headwise"},
        {**memory, "input_mask": mask("1111110000", "1011111001"),
         "embeddings_mask": mask("1111111000", "1111000000")}, expect="refuse",
        note="the package swaps the masks in cross-attention")
    add("decoder_causal", {**decoder, "causal": True}, memory, expect="refuse",
        note="the triangle is on the cross-attention")
    add("decoder_full_causal", {**decoder, "causal": True, "full_attention": True}, memory,
        expect="refuse", note="the triangle is on the cross-attention, the self-attention has none")

    # language models
    ids = tokens([[9, 6, 2, 5, 2, 8, 4, 1, 16, 0], [8, 0, 5, 16, 16, 3, 7, 11, 2, 13]])
    t = {"tokens": ids}
    lm = dict(num_tokens=17, input_size=10, channels=12, dim_k=5, dim_ff=20, nhead=3, depth=1)
    for sharing in sharings:
        add(f"lm_{sharing}", {**lm, "depth": 2, "parameter_sharing": sharing}, t)
    add("lm_depth_default", {key: value for key, value in lm.items() if key != "depth"}, t)
    add("lm_emb_dim", {**lm, "emb_dim": 8}, t)
    add("lm_emb_dim_wide", {**lm, "emb_dim": 14, "parameter_sharing": "kv"}, t)
    add("lm_emb_dim_equal", {**lm, "emb_dim": 12}, t, note="equal to channels: no project_in, no project_out")
    add("lm_emb_dim_return_emb", {**lm, "emb_dim": 8, "return_emb": True}, t,
        note="project_out is kept, so the output is emb_dim wide")
    add("lm_return_emb_depth1", {**lm, "return_emb": True}, t)
    add("lm_k_reduce", {**lm, "depth": 3, "k_reduce_by_layer": 2, "parameter_sharing": "headwise"}, t)
    add("lm_full", {**lm, "full_attention": True}, t)
    add("lm_full_causal", {**lm, "depth": 2, "full_attention": True, "causal": True}, t)
    add("lm_input_mask", {**lm, "depth": 2}, {**t, "input_mask": mask("1111110000", "1011111001")})
    add("lm_input_mask_left", {**lm, "depth": 2, "emb_dim": 8},
        {**t, "input_mask": mask("0001111111", "0000000011")})
    add("lm_w_o", {**lm, "w_o_intermediate_dim": 9}, t)
    add("lm_dim_d", {**lm, "dim_d": 7}, t)
    add("lm_ffint", {**lm, "depth": 3, "ff_intermediate": 16, "parameter_sharing": "headwise"}, t)
    add("lm_noff", {**lm, "depth": 2, "include_ff": False}, t)
    add("lm_relu", {**lm, "activation": "relu"}, t)
    add("lm_conv", {**lm, "method": "convolution", "dim_k": 4, "parameter_sharing": "none"}, t)
    add("lm_no_params", {**lm, "method": "no_params", "depth": 2, "parameter_sharing": "kv"}, t)
    add("lm_no_params_emb_dim", {**lm, "method": "no_params", "emb_dim": 8}, t)
    add("lm_checkpoint_c1", {**lm, "checkpoint_level": "C1"}, t)
    add("lm_causal", {**lm, "causal": True}, t, expect="refuse", note="the n by k triangle leaks")
    add("lm_decoder", {**lm, "decoder_mode": True}, {**t, "embeddings": (2, 10, 12)})
    add("lm_decoder_emb_dim_grad", {**lm, "decoder_mode": True, "depth": 2, "emb_dim": 8},
        {**t, "embeddings": (2, 10, 12)}, grad=True,
        note="input_gradient is that of the embeddings")
    add("lm_decoder_causal", {**lm, "decoder_mode": True, "causal": True},
        {**t, "embeddings": (2, 10, 12)}, expect="refuse", note="the triangle is on the cross-attention")
    long = dict(num_tokens=17, input_size=100, channels=6, dim_k=5, dim_ff=8, nhead=3, depth=1)
    add("lm_long_positions", long,
        {"tokens": (torch.arange(100) * 7 % 17)[None]},
        note="position 99: shows whether inv_freq is rounded to f32 as in the file")

    # gradients
    small = dict(input_size=7, channels=6, dim_k=4, dim_ff=9, nhead=3)
    xs = {"x": (2, 7, 6)}
    for sharing in sharings:
        depth = 2
        add(f"{sharing}_grad", {**small, "depth": depth, "parameter_sharing": sharing}, xs, grad=True)
        add(f"{sharing}_conv_grad", {**small, "depth": depth, "parameter_sharing": sharing,
            "method": "convolution", "dim_k": 3}, xs, grad=True)
    add("none_no_params_grad", {**small, "parameter_sharing": "none", "method": "no_params"}, xs, grad=True)
    add("layerwise_no_params_grad", {**small, "depth": 2, "method": "no_params"}, xs, grad=True)
    add("ffint_grad", {**small, "depth": 3, "ff_intermediate": 12, "parameter_sharing": "headwise"},
        xs, grad=True)
    add("mask_grad", {**small, "depth": 2}, {**xs, "input_mask": mask("1111000", "1011011")}, grad=True)
    add("mask_full_row_grad", {**small, "depth": 1, "parameter_sharing": "none"},
        {**xs, "input_mask": mask("0000000", "1011011")}, grad=True)
    add("mask_conv_grad", {**small, "parameter_sharing": "kv", "method": "convolution", "dim_k": 3},
        {**xs, "input_mask": mask("1111000", "1011011")}, grad=True)
    add("k_reduce_grad", {**small, "depth": 2, "k_reduce_by_layer": 2, "parameter_sharing": "kv"},
        xs, grad=True)
    add("w_o_dim_d_grad", {**small, "dim_d": 5, "w_o_intermediate_dim": 8, "parameter_sharing": "kv"},
        xs, grad=True)
    add("relu_grad", {**small, "activation": "relu"}, xs, grad=True)
    add("noff_grad", {**small, "include_ff": False, "depth": 2, "parameter_sharing": "headwise"},
        xs, grad=True)
    add("full_grad", {**small, "full_attention": True}, xs, grad=True,
        note="E and F take no part and have no gradient")
    add("full_causal_grad", {**small, "full_attention": True, "causal": True}, xs, grad=True)
    ids = ids[:, :7].contiguous()
    lm = dict(num_tokens=17, input_size=7, channels=6, dim_k=4, dim_ff=9, nhead=3, depth=1)
    add("lm_grad", lm, {"tokens": ids}, grad=True)
    add("lm_emb_dim_grad", {**lm, "emb_dim": 8, "parameter_sharing": "none"}, {"tokens": ids}, grad=True)
    add("lm_mask_grad", {**lm, "depth": 2}, {"tokens": ids, "input_mask": mask("1111000", "1011011")},
        grad=True)
    add("decoder_grad", {**small, "decoder_mode": True, "parameter_sharing": "headwise"},
        {**xs, "embeddings": (2, 7, 6)}, grad=True)


# ---------------------------------------------------------------------------- fairseq

# Copies of other parameters that 0.12.2 registers in each layer for PyTorch's fast path; other
# versions do not have them.  The goldens leave them out, but for one file.
FAST_PATH = ("in_proj_weight", "in_proj_bias", "out_proj_weight", "out_proj_bias",
             "fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")


def is_fast_path(key):
    parts = key.split(".")
    return parts[-1] in FAST_PATH and len(parts) > 2 and parts[-3] == "layers"


def load_fairseq_package(folder):
    """Import fairseq 0.12.2 on Python 3.11, which refuses its mutable dataclass defaults."""
    original = dataclasses.dataclass

    def patched(cls=None, **options):
        def wrap(cls):
            extra = {}
            if cls.__module__.split(".")[0] in ("fairseq", "hydra"):
                extra = {"unsafe_hash": True}
            return original(cls, **{**extra, **options})
        return wrap if cls is None else wrap(cls)

    folder = Path(folder)
    sys.path[:0] = [str(folder), str(folder / "fairseq" / "examples" / "linformer")]
    dataclasses.dataclass = patched
    try:
        import fairseq  # noqa: F401
        import linformer_src  # noqa: F401
    finally:
        dataclasses.dataclass = original


@contextlib.contextmanager
def exact_f64():
    """fairseq's softmax and GELU go through f32; here they stay in f64."""
    import fairseq.utils
    softmax, to_float = fairseq.utils.softmax, torch.Tensor.float
    fairseq.utils.softmax = lambda x, dim, onnx_trace=False: torch.softmax(x, dim)
    torch.Tensor.float = lambda self: self
    try:
        yield
    finally:
        fairseq.utils.softmax, torch.Tensor.float = softmax, to_float


def build_fairseq(config, heads):
    config = dict(config)
    if "embed_dim" in config:
        from linformer_src.modules.multihead_linear_attention import MultiheadLinearAttention
        assert config.pop("layout") == "T,B,C"
        return MultiheadLinearAttention(**config)
    from fairseq.data import Dictionary
    from linformer_src.models.linformer_roberta import LinformerModel
    dictionary = Dictionary()
    assert dictionary.pad() == config.pop("padding_idx")
    for i in range(config.pop("vocab") - len(dictionary)):
        dictionary.add_symbol(f"s{i}")
    args = argparse.Namespace(**config)
    model = LinformerModel.build_model(args, types.SimpleNamespace(source_dictionary=dictionary))
    for name, options in heads.items():
        model.register_classification_head(name, **options)
    for name, buffer in model.named_buffers():
        if name.endswith("_float_tensor"):  # created uninitialised; its values mean nothing
            buffer.zero_()
    return model


def run_fairseq(model, inputs, config):
    if "embed_dim" in config:
        x = inputs.pop("x")
        return model(x, inputs.pop("key", x), inputs.pop("value", x), **inputs)[0]
    # After a load, 0.12.2 would run PyTorch's own full attention for post-norm relu models.
    for layer in model.encoder.sentence_encoder.layers:
        layer.load_to_BT = False
    return model(inputs.pop("tokens"))[0]


def fairseq_state(model):
    return {key: value for key, value in model.state_dict().items() if not is_fast_path(key)}


def load_fairseq(model, weights):
    """The package's own loading: old names are renamed, and nothing may be left over."""
    weights = dict(weights)
    if hasattr(model, "upgrade_state_dict"):
        model.upgrade_state_dict(weights)
        # fills the fast path's copies as it goes
        missing, unexpected = torch.nn.Module.load_state_dict(model, weights, strict=False)
        missing = [key for key in missing if not is_fast_path(key)]
        if missing or unexpected:
            raise SystemExit(f"missing {missing}, unexpected {unexpected}")
        model.double().eval()
    else:
        model.upgrade_state_dict_named(weights, "")
        model.load_state_dict(weights)


def fairseq_cases(g):
    def add(name, config, inputs, **kw):
        g.add("fairseq_" + name, "fairseq", config, inputs, **kw)

    # attention alone, T x B x C
    attn = dict(embed_dim=12, num_heads=3, self_attention=True, compressed=2, max_seq_len=10,
                layout="T,B,C")
    x = {"x": (10, 2, 12)}
    add("attn_add_bias_kv", {**attn, "add_bias_kv": True}, x,
        expect=None, note="the extra slot is appended after the compression")
    add("attn_add_zero", {**attn, "add_zero_attn": True}, x,
        expect=None, note="the extra slot is appended after the compression")
    add("attn_add_bias_kv_zero", {**attn, "add_bias_kv": True, "add_zero_attn": True}, x,
        expect=None, note="the extra slot is appended after the compression")
    add("attn_no_bias", {**attn, "bias": False}, x)
    add("attn_no_bias_short", {**attn, "bias": False}, {"x": (7, 2, 12)})
    add("attn_compressed3", {**attn, "compressed": 3}, x, note="k is 10 // 3 = 3")
    add("attn_compressed3_short", {**attn, "compressed": 3}, {"x": (8, 2, 12)})
    add("attn_compressed1", {**{k: v for k, v in attn.items() if k != "compressed"}}, x,
        note="compressed is 1 by default: k = n")
    add("attn_compressed_all", {**attn, "compressed": 10}, x, note="k = 1")
    add("attn_short_of_one", attn, {"x": (1, 2, 12)})
    add("attn_shared_kv_short", {**attn, "shared_kv_compressed": 1}, {"x": (7, 2, 12)})
    add("attn_shared_kv_bias_kv", {**attn, "shared_kv_compressed": 1, "add_bias_kv": True}, x,
        expect=None, note="the extra slot is appended after the compression")
    add("attn_freeze", {**attn, "freeze_compress": 1}, x, note="the same numbers as without")
    add("attn_one_head", {**attn, "num_heads": 1}, x)
    add("attn_dropout_eval", {**attn, "dropout": 0.5}, x)
    add("attn_seq_default", dict(embed_dim=6, num_heads=3, self_attention=True, compressed=64,
        layout="T,B,C"), {"x": (5, 2, 6)}, note="max_seq_len is 256 by default: k = 4")
    add("attn_key_padding_mask", attn,
        {**x, "key_padding_mask": mask("0000001111", "0000000000")}, expect=None,
        note="the package accepts the mask (1 = pad) and ignores it")
    add("attn_attn_mask", attn, {**x, "attn_mask": (10, 5)}, expect=None,
        note="added to the n by k scores")
    add("attn_encoder_decoder", {**attn, "self_attention": False, "encoder_decoder_attention": True},
        {**x, "key": (8, 2, 12), "value": (8, 2, 12)}, expect=None,
        note="no compression in this branch; values come from key, `value` is not read")
    add("attn_plain", {**attn, "self_attention": False, "kdim": 6, "vdim": 9},
        {**x, "key": (8, 2, 6), "value": (8, 2, 9)}, expect=None,
        note="no compression in this branch")

    # the language model
    base = dict(encoder_layers=2, encoder_embed_dim=12, encoder_ffn_embed_dim=20,
                encoder_attention_heads=3, max_positions=10, tokens_per_sample=10, compressed=2,
                vocab=17, padding_idx=1)
    one = {**base, "encoder_layers": 1}
    full = tokens([[0, 5, 6, 7, 16, 9, 8, 2, 11, 12], [0, 8, 13, 2, 3, 3, 14, 15, 10, 4]])
    padded = tokens([[0, 5, 6, 7, 16, 9, 8, 11, 12, 2], [0, 8, 13, 2, 1, 1, 1, 1, 1, 1]])
    t, p = {"tokens": full}, {"tokens": padded}
    s = {"tokens": full[:, :7].contiguous()}

    add("roberta_no_padding", base, t)
    add("roberta_padding", base, p)
    add("roberta_padding_one_layer", one, p)
    add("roberta_padding_left", one, {"tokens": padded.flip(1)})
    add("roberta_padding_holes", one, {"tokens": tokens([[0, 5, 1, 7, 1, 1, 8, 11, 12, 2],
                                                         [0, 8, 13, 2, 1, 1, 9, 1, 4, 1]])})
    add("roberta_padding_row", one, {"tokens": tokens([[1] * 10, [0, 5, 6, 7, 16, 9, 8, 11, 12, 2]])},
        note="the first row is all padding")
    add("roberta_short", base, s)
    add("roberta_short_padding", base, {"tokens": padded[:, :7].contiguous()})
    add("roberta_one_token", one, {"tokens": tokens([[0], [7]])})
    add("roberta_compressed3", {**one, "compressed": 3}, p, note="k is 10 // 3 = 3")
    add("roberta_compressed_default", {key: value for key, value in one.items() if key != "compressed"},
        p, note="compressed is 4 by default: k is 10 // 4 = 2")
    add("roberta_shared_kv", {**base, "shared_kv_compressed": 1}, p)
    add("roberta_shared_layer_only", {**base, "shared_layer_kv_compressed": 1}, p,
        note="E = F in every layer all the same; compress_v is saved too")
    add("roberta_shared_both_depth3", {**base, "encoder_layers": 3, "shared_layer_kv_compressed": 1,
        "shared_kv_compressed": 1}, s)
    add("roberta_freeze", {**one, "freeze_compress": 1}, p)
    add("roberta_freeze_shared", {**base, "freeze_compress": 1, "shared_layer_kv_compressed": 1}, p)
    add("roberta_prenorm", {**base, "encoder_normalize_before": True}, p)
    add("roberta_prenorm_no_embedding_norm", {**base, "encoder_normalize_before": True,
        "layernorm_embedding": False}, p)
    add("roberta_prenorm_shared", {**base, "encoder_normalize_before": True,
        "shared_layer_kv_compressed": 1, "shared_kv_compressed": 1}, t)
    add("roberta_no_embedding_norm", {**one, "layernorm_embedding": False}, p)
    add("roberta_untied", {**one, "untie_weights_roberta": True}, p)
    for activation in ("relu", "tanh", "gelu_accurate", "linear", "gelu"):
        add(f"roberta_{activation}", {**one, "activation_fn": activation}, p,
            note="also the activation of the LM head")
    add("roberta_gelu_fast", {**one, "activation_fn": "gelu_fast"}, p,
        note="the old name of gelu_accurate")
    add("roberta_tokens_per_sample", {key: value for key, value in one.items() if key != "max_positions"},
        p, note="max_positions is tokens_per_sample where it is not given")
    add("roberta_max_positions_above", {**one, "max_positions": 13}, p,
        note="max_positions, not tokens_per_sample, sets n: k is 13 // 2 = 6")
    add("roberta_max_source_positions", {**one, "max_source_positions": 99}, p, expect=None,
        note="overwritten with max_positions")
    add("roberta_scale_embedding", {**one, "no_scale_embedding": False}, p, expect=None,
        note="no command line option sets it; token embeddings times sqrt(C)")
    add("roberta_no_positions", {**one, "no_token_positional_embeddings": True}, p, expect=None,
        note="no command line option sets it")
    add("roberta_sinusoidal", {**one, "encoder_learned_pos": False}, p, expect=None,
        note="no command line option sets it; base 10000, halves, computed in f32")
    add("roberta_attention_dropout_eval", {**one, "dropout": 0.3, "attention_dropout": 0.2,
        "activation_dropout": 0.4, "pooler_dropout": 0.5}, p)
    add("roberta_wide_heads", {**one, "encoder_attention_heads": 12}, p)

    def with_heads(case, model, values):
        for name, head in model.classification_heads.items():
            with torch.no_grad(), exact_f64():
                features = model.encoder.extract_features(values["tokens"])[0]
                case[f"classification_output.{name}"] = encode(head(features))
                case["features"] = encode(features)

    add("roberta_heads", one, p, after=with_heads,
        heads={"cola": {"num_classes": 3, "inner_dim": 7}, "sts": {"num_classes": 1}},
        note="classification_output.{name}: the heads' outputs; features: what they are given; "
             "both in f64; inner_dim is encoder_embed_dim where it is not given")
    add("roberta_heads_relu", {**one, "pooler_activation_fn": "relu"}, p, after=with_heads,
        heads={"mnli": {"num_classes": 3, "inner_dim": 8}})

    # old names and layouts
    def renamed(change):
        def after(case, model, values):
            state = {}
            for key, value in case["state_dict"].items():
                for new in change(key):
                    state[new] = value
            case["state_dict"] = state
        return after

    add("roberta_old_decoder_prefix", one, p, note="decoder. in place of encoder.",
        after=renamed(lambda key: ["decoder" + key[len("encoder"):] if key.startswith("encoder.") else key]))
    add("roberta_old_emb_layer_norm", one, p, note="emb_layer_norm is layernorm_embedding",
        after=renamed(lambda key: [key.replace(".layernorm_embedding.", ".emb_layer_norm.")]))
    add("roberta_old_layer_norms", one, p,
        note="layer_norms.0 is self_attn_layer_norm, layer_norms.1 final_layer_norm",
        after=renamed(lambda key: [key.replace("self_attn_layer_norm.", "layer_norms.0.")
                                   .replace("final_layer_norm.", "layer_norms.1.")]))

    def in_proj(case, model, values):
        state = case["state_dict"]
        for kind in ("weight", "bias"):
            for key in [key for key in state if key.endswith(f"q_proj.{kind}")]:
                stem = key[: -len(f"q_proj.{kind}")]
                thirds = [decode(state.pop(f"{stem}{w}_proj.{kind}")) for w in "qkv"]
                state[f"{stem}in_proj_{kind}"] = encode(torch.cat(thirds))

    add("roberta_old_in_proj", base, p, after=in_proj,
        note="in_proj_weight and in_proj_bias: q, k, v in thirds")
    add("attn_old_in_proj", attn, x, after=in_proj,
        note="in_proj_weight and in_proj_bias: q, k, v in thirds")
    add("attn_old_in_proj_no_bias", {**attn, "bias": False}, x, after=in_proj,
        note="in_proj_weight alone")

    def without(*ends):
        return renamed(lambda key: [] if key.endswith(ends) else [key])

    add("roberta_no_versions", one, p, after=without("version"),
        note="no version keys; the weights are tied, so the same numbers")

    def untie(model):
        generator = torch.Generator().manual_seed(1)
        head = model.encoder.lm_head
        head.weight = torch.nn.Parameter(draw(generator, head.weight.shape, 0.35, 1.0))

    add("roberta_old_untied", one, p, prepare=untie, after=without("encoder.version"),
        note="encoder.version below 2 and lm_head.weight not equal to embed_tokens.weight: the "
             "package unties them, whatever untie_weights_roberta says")

    def no_final_norm(model):
        model.encoder.sentence_encoder.layer_norm = None

    add("roberta_old_no_final_norm", {**one, "encoder_normalize_before": True}, p,
        prepare=no_final_norm, after=without("sentence_encoder.version"),
        note="sentence_encoder.version below 2: pre-norm, but no norm after the last layer")

    def per_layer(model):
        """What loading such a file makes of the model: one matrix a layer, E = F within it."""
        generator = torch.Generator().manual_seed(2)
        for layer in model.encoder.sentence_encoder.layers:
            old = layer.self_attn.compress_k
            own = torch.nn.Linear(old.in_features, old.out_features, dtype=torch.float64)
            with torch.no_grad():
                own.weight.copy_(draw(generator, own.weight.shape, 0.35, 1.0))
                own.bias.copy_(draw(generator, own.bias.shape, 0.35, 1.0))
            layer.self_attn.compress_k = own
            if layer.self_attn.shared_kv_compressed == 0:
                layer.self_attn.compress_v = own

    def old_shared(case, model, values):
        """Each layer holds the shared matrix once more, and does not use it."""
        state = {}
        for key, value in case["state_dict"].items():
            if ".layers." in key and key.endswith("version"):
                continue
            state[key] = value
            if ".layers." in key and ".compress_k." in key:
                kind = key.split(".")[-1]
                common = case["state_dict"][f"encoder.sentence_encoder.compress_layer.{kind}"]
                state[key.replace("self_attn.compress_k", "shared_compress_layer")] = common
        case["state_dict"] = state

    for shared_kv in (0, 1):
        add(f"roberta_old_shared_layer{'_kv' if shared_kv else ''}",
            {**base, "shared_layer_kv_compressed": 1, "shared_kv_compressed": shared_kv}, p,
            prepare=per_layer, after=old_shared, expect=None,
            note="layer version below 2 with shared_compress_layer keys: nothing is shared between "
                 "layers, each uses its own compress_k; compress_layer is loaded and unused")

    def fast_path_keys(case, model, values):
        for key in list(case["state_dict"]):
            if key.endswith("fc1.weight"):
                stem = key[: -len("fc1.weight")]
                state = case["state_dict"]
                for kind in ("weight", "bias"):
                    parts = [decode(state[f"{stem}self_attn.{w}_proj.{kind}"]) for w in "qkv"]
                    state[f"{stem}in_proj_{kind}"] = encode(torch.cat(parts))
                    state[f"{stem}out_proj_{kind}"] = state[f"{stem}self_attn.out_proj.{kind}"]
                    state[f"{stem}fc1_{kind}"] = state[f"{stem}fc1.{kind}"]
                    state[f"{stem}fc2_{kind}"] = state[f"{stem}fc2.{kind}"]

    def fast_path_zeros(case, model, values):
        fast_path_keys(case, model, values)
        for key, value in case["state_dict"].items():
            if is_fast_path(key):
                value = dict(value)
                value["data"] = [0.0] * len(value["data"])
                case["state_dict"][key] = value

    add("roberta_fast_path_copies", one, p, after=fast_path_keys,
        note="as 0.12.2 saves a model it has loaded: eight more tensors a layer, copies, unused here")
    add("roberta_fast_path_zeros", one, p, after=fast_path_zeros,
        note="as 0.12.2 saves a model trained from scratch: the eight tensors are zeros")

    # gradients, in f64 throughout
    small = dict(embed_dim=6, num_heads=3, self_attention=True, compressed=2, max_seq_len=8,
                 layout="T,B,C")
    xs = {"x": (8, 2, 6)}
    add("attn_grad", small, xs, grad=True)
    add("attn_short_grad", small, {"x": (5, 2, 6)}, grad=True)
    add("attn_shared_kv_grad", {**small, "shared_kv_compressed": 1}, xs, grad=True)
    add("attn_bias_kv_zero_grad", {**small, "add_bias_kv": True, "add_zero_attn": True}, xs,
        grad=True, expect=None)
    add("attn_freeze_grad", {**small, "freeze_compress": 1}, xs, grad=True,
        note="no gradient for compress_k and compress_v")
    tiny = dict(encoder_layers=1, encoder_embed_dim=6, encoder_ffn_embed_dim=9,
                encoder_attention_heads=3, max_positions=8, compressed=2, vocab=11, padding_idx=1)
    ids = tokens([[0, 5, 6, 7, 10, 9, 8, 2], [0, 8, 4, 3, 2, 1, 1, 1]])
    add("roberta_grad", tiny, {"tokens": ids}, grad=True)
    add("roberta_prenorm_grad", {**tiny, "encoder_normalize_before": True}, {"tokens": ids}, grad=True)
    add("roberta_shared_layer_grad", {**tiny, "encoder_layers": 2, "shared_layer_kv_compressed": 1,
        "shared_kv_compressed": 1}, {"tokens": ids}, grad=True,
        note="no gradient for the bias of the shared layer")
    add("roberta_untied_grad", {**tiny, "untie_weights_roberta": True, "activation_fn": "relu"},
        {"tokens": ids}, grad=True)


# ---------------------------------------------------------------------------- existing files

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="goldens", help="folder to write into (default: goldens)")
    parser.add_argument("--fairseq", metavar="DIR", help="unpacked fairseq-0.12.2, for its cases")
    parser.add_argument("--only", metavar="TEXT", help="only cases with TEXT in their name")
    parser.add_argument("--validate", metavar="DIR", help="re-run the cases in DIR instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    peers = ["lucidrains", "tatp22"]
    if args.fairseq:
        load_fairseq_package(args.fairseq)
        peers.append("fairseq")
    if args.validate:
        validate(args.validate, peers)
        return
    goldens = Goldens(args.out, args.only)
    lucid_cases(goldens)
    tat_cases(goldens)
    if args.fairseq:
        fairseq_cases(goldens)
    if args.fairseq and not args.only:
        goldens.write_list()
    print(f"{len(goldens.made)} files in {args.out}")


if __name__ == "__main__":
    main()
