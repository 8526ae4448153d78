"""An encoder of the model hub with what sentence-transformers does after it, as one PyTorch module; `python pooled.py MODEL FOLDER`
exports it to ONNX, as it is and as ONNX Runtime's optimizer for BERT rewrites it."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel


class Pooled(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    @classmethod
    def open(cls, folder, attention="sdpa"):
        return cls(AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)).eval()

    def forward(self, ids, mask):
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=1)


def export(model, folder):
    """Writes `plain.onnx`, by the exporter whose graphs ONNX Runtime's optimizer for BERT knows, and `fused.onnx`, which that makes of it."""
    import onnx
    from onnxruntime.transformers.optimizer import optimize_model

    ids, names = torch.ones(2, 16, dtype=torch.int64), ["ids", "mask"]
    plain = str(Path(folder) / "plain.onnx")
    torch.onnx.export(Pooled.open(model, "eager"), (ids, ids), plain, dynamo=False, opset_version=17, input_names=names,
                      output_names=["vectors"], dynamic_axes={name: {0: "batch", 1: "length"} for name in names})
    config = json.loads((Path(model) / "config.json").read_text())
    fused = optimize_model(plain, "bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"])
    onnx.save(fused.model, str(Path(folder) / "fused.onnx"))
    print(json.dumps(fused.get_fused_operator_statistics()))


if __name__ == "__main__":
    export(*sys.argv[1:])
