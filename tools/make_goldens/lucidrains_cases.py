"""The cases of lucidrains' linformer."""

from tensors import tokens


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
