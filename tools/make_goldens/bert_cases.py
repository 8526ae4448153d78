"""The cases of BERT and its relatives."""

import torch

from tensors import encode, mask, tokens

CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta",
           "distilbert": "DistilBert", "electra": "Electra"}
LABELS = {"0": "no", "1": "perhaps", "2": "yes"}


def config_of(kind, head, **more):
    config = dict(model_type=kind, architectures=[CLASSES[kind] + head], vocab_size=17, pad_token_id=0)
    if kind == "distilbert":
        config.update(dim=16, n_layers=2, n_heads=4, hidden_dim=20, activation="gelu",
                      max_position_embeddings=12, sinusoidal_pos_embds=False)
    else:
        config.update(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20,
                      hidden_act="gelu", max_position_embeddings=12, type_vocab_size=2, layer_norm_eps=1e-12,
                      position_embedding_type="absolute")
    if kind in ("roberta", "xlm-roberta"):
        config.update(pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5)
    if kind == "electra":
        config.update(embedding_size=8)
    if head.endswith("Classification"):
        config.update(id2label=LABELS)
    return {**config, **more}


def inputs_of(config, types=False, padded=True, left=False):
    pad = config["pad_token_id"]
    rows = [[5, 6, 7, 16, 9, 8, 11, 12, 2], [4, 8, 13, 2, 3, 9]]
    longest = max(map(len, rows))
    if not padded:
        rows = [row[:6] for row in rows]
        longest = 6
    fill = [[pad] * (longest - len(row)) for row in rows]
    real = ["1" * len(row) for row in rows]
    if left:
        rows = [pads + row for pads, row in zip(fill, rows)]
        real = [row.rjust(longest, "0") for row in real]
    else:
        rows = [row + pads for pads, row in zip(fill, rows)]
        real = [row.ljust(longest, "0") for row in real]
    inputs = {"tokens": tokens(rows)}
    if padded:
        inputs["mask"] = mask(*real)
    if types:
        second = [[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0, 0, 0]]
        inputs["types"] = tokens([row[:longest] for row in second])
    return inputs


def bert_cases(g):
    def add(name, config, inputs, **kw):
        g.add("bert_" + name, "bert", config, inputs, **kw)

    def pooled(case, model, values):
        with torch.no_grad():
            case["pooled"] = encode(model.pool(model(**values)))

    for kind in CLASSES:
        name = kind.replace("-", "_")
        has_pooler = kind in ("bert", "roberta", "xlm-roberta")
        config = config_of(kind, "Model")
        add(f"{name}_encoder", config, inputs_of(config), after=pooled if has_pooler else None,
            note="names without a prefix" + ("; pooled: tanh of the pooler's product" if has_pooler else ""))
        for head in ("MaskedLM", "SequenceClassification", "TokenClassification"):
            config = config_of(kind, "For" + head)
            add(f"{name}_{head.lower()}", config, inputs_of(config, padded=head != "MaskedLM"))
        config = config_of(kind, "ForSequenceClassification", id2label={"0": "score"})
        has_types = config.get("type_vocab_size", 0) > 1
        add(f"{name}_pair", config, inputs_of(config, types=has_types),
            note="one class, as cross-encoders have" + ("" if has_types else "; no types"))

    for activation in ("gelu_new", "relu", "silu", "tanh"):
        config = config_of("bert", "ForMaskedLM", hidden_act=activation)
        add(f"bert_{activation}", config, inputs_of(config), note="also the activation of the head")
    config = config_of("roberta", "ForMaskedLM", hidden_act="relu")
    add("roberta_relu", config, inputs_of(config), note="the head's activation is GELU all the same")
    config = config_of("distilbert", "ForMaskedLM", activation="relu")
    add("distilbert_relu", config, inputs_of(config), note="also the activation of the head")
    config = config_of("electra", "ForMaskedLM", embedding_size=16, hidden_act="relu")
    add("electra_as_wide", config, inputs_of(config, types=True),
        note="embedding_size is hidden_size: no product leads in; the head's activation is GELU")
    config = config_of("roberta", "Model", pad_token_id=10, type_vocab_size=2, max_position_embeddings=20)
    add("roberta_left_padding", config, inputs_of(config, types=True, left=True),
        note="padding has the id 10 and comes first")
    config = config_of("bert", "ForMaskedLM", tie_word_embeddings=False)
    add("bert_untied", config, inputs_of(config, types=True))

    def without_copies(case, model, values):
        for name in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
            del case["state_dict"][name]

    def old_names(case, model, values):
        case["state_dict"] = {name.replace("LayerNorm.weight", "LayerNorm.gamma")
                              .replace("LayerNorm.bias", "LayerNorm.beta"): value
                              for name, value in case["state_dict"].items()}

    config = config_of("bert", "ForMaskedLM")
    add("bert_tied_once", config, inputs_of(config, types=True), after=without_copies,
        note="the tied weight and its bias are stored once")
    add("bert_gamma_beta", config, inputs_of(config, types=True), after=old_names,
        note="the norms' old names")
    config = config_of("bert", "Model")
    add("bert_pair_grad", config, inputs_of(config, types=True), grad=True, after=pooled)
