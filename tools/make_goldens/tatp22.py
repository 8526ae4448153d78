"""Models of tatp22's linformer-pytorch."""

from tensors import draw


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
