"""Runs and times PyTorch models for run.py, and exports them to ONNX."""

import importlib.metadata
import logging
import time

import numpy as np
import torch
import torch.nn.functional as F
from linformer import Linformer, LinformerSelfAttention
from linformer_pytorch.linformer_pytorch import MHAttention
from safetensors.torch import load_file, save_file
from torch import nn

from worker import relative_error, serve, time_calls

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ExactAttention(nn.Module):
    """Exact attention on PyTorch's fused kernel, with the weights of a LinformerSelfAttention."""

    def __init__(self, dim, heads, **_):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x):
        batch, length, dim = x.shape
        split = lambda y: y.view(batch, length, self.heads, -1).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            split(self.to_q(x)), split(self.to_k(x)), split(self.to_v(x)))
        return self.to_out(out.transpose(1, 2).reshape(batch, length, dim))


def lucidrains_attention(options, weights):
    module = LinformerSelfAttention(**options)
    module.load_state_dict(weights)
    return module


def lucidrains_encoder(options, weights):
    module = Linformer(**options)
    module.load_state_dict(weights)
    return module


def exact_attention(options, weights):
    module = ExactAttention(**options)
    module.load_state_dict({name: weights[name] for name in module.state_dict()})
    return module


def tatp22_attention(options, weights):
    """tatp22's layer with the same weights: its heads have a matrix each, and E and F a bias."""
    dim, heads, n, k = (options[name] for name in ("dim", "heads", "seq_len", "k"))
    head_dim = dim // heads
    module = MHAttention(n, head_dim, dim, k, heads, 0.0, "C0", "headwise", None, None, False, None)
    state = {"w_o.weight": weights["to_out.weight"], "w_o.bias": weights["to_out.bias"]}
    for head in range(heads):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        for name in ("to_q", "to_k", "to_v"):
            state[f"{name}.{head}.weight"] = weights[f"{name}.weight"][rows]
        for name, matrix in (("E", "proj_k"), ("F", "proj_v")):
            state[f"heads.{head}.{name}.weight"] = weights[matrix].T
            state[f"heads.{head}.{name}.bias"] = torch.zeros(k)
    module.load_state_dict(state)
    return module


def transformer_encoder(options, weights):
    module = new_transformer(options)
    module.load_state_dict({theirs: join(weights, ours) for theirs, ours in names(options)})
    return module


def new_transformer(options):
    layer = nn.TransformerEncoderLayer(
        options["dim"], options["heads"], options["ff_dim"], dropout=0.0, activation="gelu",
        batch_first=True, norm_first=not options["post_norm"])
    return nn.TransformerEncoder(layer, options["depth"], enable_nested_tensor=False)


def names(options):
    """Each tensor of nn.TransformerEncoder, and what it is made of in the crate's names."""
    for i in range(options["depth"]):
        theirs, ours = f"layers.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            parts = [f"{ours}.attention.{part}.{kind}" for part in ("query", "key", "value")]
            yield f"{theirs}.self_attn.in_proj_{kind}", parts
            for name, ours_name in (("self_attn.out_proj", "attention.output"),
                                    ("norm1", "attention_norm"),
                                    ("norm2", "feed_forward.norm"),
                                    ("linear1", "feed_forward.input"),
                                    ("linear2", "feed_forward.output")):
                yield f"{theirs}.{name}.{kind}", [f"{ours}.{ours_name}.{kind}"]


def join(weights, parts):
    return torch.cat([weights[part] for part in parts])


MODELS = {
    "lucidrains_attention": lucidrains_attention,
    "lucidrains_encoder": lucidrains_encoder,
    "exact_attention": exact_attention,
    "tatp22_attention": tatp22_attention,
    "transformer_encoder": transformer_encoder,
}


def drawn_weights(model, options):
    """Weights as the package draws them, by the names that the Rust driver reads."""
    if model == "transformer_encoder":
        state = new_transformer(options).state_dict()
        made = {}
        for theirs, ours in names(options):
            made.update(zip(ours, state[theirs].chunk(len(ours))))
        return made
    module = Linformer if model == "lucidrains_encoder" else LinformerSelfAttention
    return module(**options).state_dict()


class Worker:
    def __init__(self):
        self.loaded = {}

    def about(self, threads):
        torch.set_num_threads(threads)
        found = {name: importlib.metadata.version(name)
                 for name in ("torch", "linformer", "linformer-pytorch", "numpy")}
        # "Intel(R) MKL-DNN v3.13.3 (Git Hash …)" and the like
        lines = [line.strip(" -").split(" (")[0] for line in torch.__config__.show().splitlines()]
        found["libraries"] = [line for line in lines if "MKL-DNN" in line or "Math Kernel" in line]
        found["bfloat16"] = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return found

    def make(self, model, options, shape, seed, weights, input):
        """Draws weights and an input and writes them to files."""
        torch.manual_seed(seed)
        state = {name: value.detach().clone().contiguous()
                 for name, value in drawn_weights(model, options).items()}
        save_file(state, weights)
        torch.randn(shape).numpy().astype("<f4").tofile(input)

    def load(self, id, model, options, weights, input, shape, dtype="float32", compile=False):
        dtype = DTYPES[dtype]
        module = MODELS[model](options, load_file(weights)).to(dtype).eval()
        x = torch.from_numpy(np.fromfile(input, "<f4").reshape(shape)).to(dtype)
        if compile:
            # Without this the ninth model of a process is one too many for its cache, and runs uncompiled.
            torch._dynamo.reset()
            module = torch.compile(module, dynamic=False)
        self.loaded[id] = (module, x)

    def export(self, model, options, weights, input, shape, path):
        """Writes a model as ONNX, for sequences of the input's shape."""
        module = MODELS[model](options, load_file(weights)).eval()
        x = torch.from_numpy(np.fromfile(input, "<f4").reshape(shape))
        # TransformerEncoder's fused kernel of PyTorch's own has no counterpart in ONNX.
        torch.backends.mha.set_fastpath_enabled(False)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of packages that are not needed here
        with torch.no_grad():
            torch.onnx.export(module, (x,), path, dynamo=True, verbose=False)

    def check(self, id, path):
        module, x = self.loaded[id]
        with torch.inference_mode():
            return {"error": relative_error(module(x).float().numpy(), path)}

    def time(self, id, warm, calls, idle=0.0):
        module, x = self.loaded[id]
        with torch.inference_mode():
            return {"seconds": time_calls(lambda: module(x), warm, calls, idle)}

    def train_load(self, options, weights, input, target, shape):
        self.module = lucidrains_encoder(options, load_file(weights)).train()
        read = lambda path: torch.from_numpy(np.fromfile(path, "<f4").reshape(shape))
        self.input, self.target = read(input), read(target)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-4)

    def train_step(self):
        """One training step: its loss, before it, and seconds."""
        start = time.perf_counter_ns()
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.module(self.input), self.target)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item(), "seconds": (time.perf_counter_ns() - start) * 1e-9}

    def gemm(self, size):
        a = torch.randn(size, size)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - start)
        return {"seconds": best}

    def drop(self, id):
        self.loaded.pop(id, None)


if __name__ == "__main__":
    serve(Worker())
