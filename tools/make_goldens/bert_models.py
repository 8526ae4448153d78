"""BERT and its relatives in plain torch, written from the papers and from what a `config.json` says.

BERT (arXiv 1810.04805), RoBERTa (1907.11692), XLM-R (1911.02116), DistilBERT (1910.01108) and
ELECTRA (2003.10555).  The class comes from `architectures`; modules are named as the hub's files
name their tensors.
"""

import math

import torch
from torch import nn

PREFIXES = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta",
            "distilbert": "distilbert", "electra": "electra"}


def gelu(x):
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh,
               "relu": torch.relu, "silu": lambda x: x * torch.sigmoid(x), "tanh": torch.tanh}


def group(**parts):
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


class Sizes:
    """A config.json under one set of names."""

    def __init__(self, config):
        self.kind = config["model_type"]
        self.is_distilbert = self.kind == "distilbert"
        self.dim = config["dim" if self.is_distilbert else "hidden_size"]
        self.depth = config["n_layers" if self.is_distilbert else "num_hidden_layers"]
        self.heads = config["n_heads" if self.is_distilbert else "num_attention_heads"]
        self.ff_dim = config["hidden_dim" if self.is_distilbert else "intermediate_size"]
        self.activation = config["activation" if self.is_distilbert else "hidden_act"]
        self.width = config["embedding_size"] if self.kind == "electra" else self.dim
        self.types = 0 if self.is_distilbert else config["type_vocab_size"]
        self.eps = 1e-12 if self.is_distilbert else config["layer_norm_eps"]
        self.vocab, self.positions = config["vocab_size"], config["max_position_embeddings"]
        self.pad = config["pad_token_id"]
        self.tied = config.get("tie_word_embeddings", True)
        self.labels = len(config.get("id2label", {}))

    def norm(self, width):
        return nn.LayerNorm(width, eps=self.eps)


class Embeddings(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocab, sizes.width)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.width)
        if sizes.types:
            self.token_type_embeddings = nn.Embedding(sizes.types, sizes.width)
        self.LayerNorm = sizes.norm(sizes.width)
        self.after_padding = sizes.pad if PREFIXES[sizes.kind] == "roberta" else None
        self.types = sizes.types

    def positions(self, tokens):
        if self.after_padding is None:
            return torch.arange(tokens.shape[1]).expand_as(tokens)
        # Tokens other than padding count, from behind the padding's own row.
        real = (tokens != self.after_padding).long()
        return real.cumsum(1) * real + self.after_padding

    def forward(self, tokens, types):
        x = self.word_embeddings(tokens) + self.position_embeddings(self.positions(tokens))
        if self.types:
            x = x + self.token_type_embeddings(torch.zeros_like(tokens) if types is None else types)
        return self.LayerNorm(x)


def attend(query, key, value, heads, mask):
    """softmax(Q Kᵀ / √d) V of each head, where padding has no weight."""
    batch, length, dim = query.shape
    split = lambda x: x.reshape(batch, length, heads, dim // heads).transpose(1, 2)
    scores = split(query) @ split(key).transpose(2, 3) / math.sqrt(dim // heads)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
    return (torch.softmax(scores, -1) @ split(value)).transpose(1, 2).reshape(batch, length, dim)


class Block(nn.Module):
    """Post-norm: norm(x + attention(x)), then norm(x + feed-forward(x))."""

    def __init__(self, sizes):
        super().__init__()
        dim, ff_dim = sizes.dim, sizes.ff_dim
        self.heads, self.activation = sizes.heads, ACTIVATIONS[sizes.activation]
        layers = [nn.Linear(dim, dim) for _ in range(4)]
        layers += [nn.Linear(dim, ff_dim), nn.Linear(ff_dim, dim)]
        norms = [sizes.norm(dim), sizes.norm(dim)]
        if sizes.is_distilbert:
            self.attention = group(q_lin=layers[0], k_lin=layers[1], v_lin=layers[2], out_lin=layers[3])
            self.sa_layer_norm = norms[0]
            self.ffn = group(lin1=layers[4], lin2=layers[5])
            self.output_layer_norm = norms[1]
        else:
            self.attention = group(self=group(query=layers[0], key=layers[1], value=layers[2]),
                                   output=group(dense=layers[3], LayerNorm=norms[0]))
            self.intermediate = group(dense=layers[4])
            self.output = group(dense=layers[5], LayerNorm=norms[1])
        self.parts = lambda: (layers, norms)

    def forward(self, x, mask):
        (query, key, value, out, up, down), (first, second) = self.parts()
        x = first(x + out(attend(query(x), key(x), value(x), self.heads, mask)))
        return second(x + down(self.activation(up(x))))


class Body(nn.Module):
    def __init__(self, sizes, pooler):
        super().__init__()
        self.embeddings = Embeddings(sizes)
        if sizes.width != sizes.dim:
            self.embeddings_project = nn.Linear(sizes.width, sizes.dim)
        blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        if sizes.is_distilbert:
            self.transformer = group(layer=blocks)
        else:
            self.encoder = group(layer=blocks)
        if pooler:
            self.pooler = group(dense=nn.Linear(sizes.dim, sizes.dim))
        self.blocks = lambda: blocks

    def forward(self, tokens, mask=None, types=None):
        x = self.embeddings(tokens, types)
        if hasattr(self, "embeddings_project"):
            x = self.embeddings_project(x)
        for block in self.blocks():
            x = block(x, mask)
        return x

    def pool(self, features):
        return torch.tanh(self.pooler.dense(features[:, 0]))


class Tied(nn.Module):
    """The last product of a language model's head, with a bias of its own."""

    def __init__(self, sizes, embedding):
        super().__init__()
        shared = embedding.weight
        self.weight = shared if sizes.tied else nn.Parameter(torch.empty_like(shared))
        self.bias = nn.Parameter(torch.zeros(sizes.vocab))

    def forward(self, x):
        return x @ self.weight.T + self.bias


class MaskedLanguageModel(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        body = Body(sizes, pooler=False)
        self.add_module(PREFIXES[sizes.kind], body)
        dense, norm = nn.Linear(sizes.dim, sizes.width), sizes.norm(sizes.width)
        last = Tied(sizes, body.embeddings.word_embeddings)
        activation = ACTIVATIONS[sizes.activation] if sizes.kind in ("bert", "distilbert") else gelu
        if sizes.kind == "bert":
            predictions = group(transform=group(dense=dense, LayerNorm=norm), decoder=last)
            predictions.bias = last.bias
            self.cls = group(predictions=predictions)
        elif sizes.is_distilbert:
            self.vocab_transform, self.vocab_layer_norm, self.vocab_projector = dense, norm, last
        elif sizes.kind == "electra":
            self.generator_predictions = group(LayerNorm=norm, dense=dense)
            self.generator_lm_head = last
        else:
            self.lm_head = group(dense=dense, layer_norm=norm, decoder=last)
            self.lm_head.bias = last.bias
        self.parts = lambda: (body, dense, activation, norm, last)

    def forward(self, tokens, mask=None, types=None):
        body, dense, activation, norm, last = self.parts()
        return last(norm(activation(dense(body(tokens, mask, types)))))


class Classifier(nn.Module):
    """Scores of sequences: a dense layer, an activation and a product, from the first token."""

    def __init__(self, sizes):
        super().__init__()
        body = Body(sizes, pooler=sizes.kind == "bert")
        self.add_module(PREFIXES[sizes.kind], body)
        dense, out = nn.Linear(sizes.dim, sizes.dim), nn.Linear(sizes.dim, sizes.labels)
        if sizes.kind == "bert":
            dense, self.classifier, activation = body.pooler.dense, out, torch.tanh
        elif sizes.is_distilbert:
            self.pre_classifier, self.classifier, activation = dense, out, torch.relu
        else:
            self.classifier = group(dense=dense, out_proj=out)
            activation = gelu if sizes.kind == "electra" else torch.tanh
        self.parts = lambda: (body, dense, activation, out)

    def forward(self, tokens, mask=None, types=None):
        body, dense, activation, out = self.parts()
        return out(activation(dense(body(tokens, mask, types)[:, 0])))


class TokenClassifier(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        body = Body(sizes, pooler=False)
        self.add_module(PREFIXES[sizes.kind], body)
        self.classifier = nn.Linear(sizes.dim, sizes.labels)
        self.body = lambda: body

    def forward(self, tokens, mask=None, types=None):
        return self.classifier(self.body()(tokens, mask, types))


def build_bert(config):
    sizes, name = Sizes(config), config["architectures"][0]
    if name.endswith("ForMaskedLM"):
        return MaskedLanguageModel(sizes)
    if name.endswith("ForSequenceClassification"):
        return Classifier(sizes)
    if name.endswith("ForTokenClassification"):
        return TokenClassifier(sizes)
    return Body(sizes, pooler=name in ("BertModel", "RobertaModel", "XLMRobertaModel"))


def run_bert(model, inputs):
    """The output, with 0 in place of what padding became."""
    output = model(inputs["tokens"], inputs.get("mask"), inputs.get("types"))
    if output.dim() == 3 and "mask" in inputs:
        output = output * inputs["mask"][..., None]
    return output
