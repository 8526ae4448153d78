"""The cases of tatp22's linformer-pytorch."""

import torch

from tensors import mask, tokens


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
