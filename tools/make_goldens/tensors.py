"""Tensors in JSON, and random ones."""

import torch

DTYPES = {torch.float64: "f64", torch.float32: "f32", torch.int64: "i64", torch.bool: "bool"}


def encode(tensor):
    data = tensor.detach().cpu().reshape(-1)
    if tensor.dtype == torch.bool:
        data = data.to(torch.int64)
    return {"shape": list(tensor.shape), "dtype": DTYPES[tensor.dtype], "data": data.tolist()}


def decode(entry):
    dtype = {name: dtype for dtype, name in DTYPES.items()}[entry["dtype"]]
    return torch.tensor(entry["data"], dtype=dtype).reshape(entry["shape"])


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


def tokens(rows):
    return torch.tensor(rows, dtype=torch.int64)


def mask(*rows):
    return torch.tensor([[c == "1" for c in row] for row in rows])
