"""Models of lucidrains' linformer."""

import torch


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
