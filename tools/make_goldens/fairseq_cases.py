"""The cases of fairseq's linformer_roberta."""

import torch

from fairseq_models import exact_f64, is_fast_path
from tensors import decode, draw, encode, mask, tokens


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
