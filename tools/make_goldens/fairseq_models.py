"""Models of fairseq's linformer_roberta."""

import argparse
import contextlib
import dataclasses
import sys
import types
from pathlib import Path

import torch

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
