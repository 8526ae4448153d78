"""Embeds texts in PyTorch, ONNX Runtime or OpenVINO for text.py: the engine is the argument.  All of them take the model's own tokenizer
(the package tokenizers), sort texts by length, pad each batch to its longest, and return means of the last hidden states, normalized."""

import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from worker import serve, time_calls


class PyTorch:
    """transformers' model, attention by scaled_dot_product_attention."""

    def __init__(self, model, exported, threads):
        import torch
        from pooled import Pooled

        torch.set_num_threads(threads)
        self.torch, self.model = torch, Pooled.open(model)

    def run(self, ids, mask):
        with self.torch.inference_mode():
            return self.model(self.torch.from_numpy(ids), self.torch.from_numpy(mask)).numpy()


class OnnxRuntime:
    """The graph as PyTorch exports it, or (`fused`) as ONNX Runtime's own optimizer for BERT rewrites it."""

    graph = "plain"

    def __init__(self, model, exported, threads):
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        path = str(Path(exported) / f"{self.graph}.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, ids, mask):
        return self.session.run(None, {"ids": ids, "mask": mask})[0]


class OnnxRuntimeFused(OnnxRuntime):
    graph = "fused"


class OpenVino:
    """In f32, compiled for each shape where all batches have the same, as that is faster there."""

    def __init__(self, model, exported, threads):
        import openvino

        self.core, self.path = openvino.Core(), str(Path(exported) / "plain.onnx")
        self.options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1",
                        "PERFORMANCE_HINT": "LATENCY"}
        self.requests = {}

    def request(self, shape):
        if shape not in self.requests:
            model = self.core.read_model(self.path)
            if shape is not None:
                model.reshape({"ids": list(shape), "mask": list(shape)})
            self.requests[shape] = self.core.compile_model(model, "CPU", self.options).create_infer_request()
        return self.requests[shape]

    def run(self, ids, mask, fixed=False):
        request = self.request(ids.shape if fixed else None)
        return request.infer({"ids": ids, "mask": mask})[0].copy()


# `tokenizer` only cuts texts.
ENGINES = {"tokenizer": None, "pytorch": PyTorch, "onnxruntime": OnnxRuntime, "onnxruntime-fused": OnnxRuntimeFused, "openvino": OpenVino}


class Worker:
    def __init__(self, engine):
        self.engine, self.loaded = ENGINES[engine], {}

    def open(self, model, exported=None, threads=1):
        self.tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.model = self.engine and self.engine(model, exported, threads)

    def cut(self, words, length, count):
        """`count` texts of these words that have `length` tokens each, special ones included."""
        size = lambda words: len(self.tokenizer.encode(" ".join(words)).ids)
        texts = []
        for _ in range(count):
            taken = 0
            while size(words[:taken + 1]) <= length:
                taken += 1
            texts.append(" ".join(words[:taken] + ["the"] * (length - size(words[:taken]))))
            words = words[taken:]
        return {"texts": texts}

    def load(self, id, texts, batch):
        self.loaded[id] = (json.loads(Path(texts).read_text()), batch)

    def embed(self, id):
        texts, batch = self.loaded[id]
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        batches = [order[start:start + batch] for start in range(0, len(order), batch)]
        fixed = {"fixed": True} if self.engine is OpenVino and len(batches) == 1 else {}
        vectors = None
        for indices in batches:
            longest = len(tokens[indices[0]])
            ids, mask = np.zeros((2, len(indices), longest), np.int64)
            for row, index in enumerate(indices):
                ids[row, :len(tokens[index])] = tokens[index]
                mask[row, :len(tokens[index])] = 1
            found = self.model.run(ids, mask, **fixed)
            vectors = np.empty((len(texts), found.shape[1]), np.float32) if vectors is None else vectors
            vectors[indices] = found
        return vectors

    def time(self, id, warm, calls):
        return {"seconds": time_calls(lambda: self.embed(id), warm, calls, 0.0)}

    def write(self, id, path):
        self.embed(id).astype("<f4").tofile(path)

    def memory(self):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return {"bytes": int(line.split()[1]) * 1024}


if __name__ == "__main__":
    serve(Worker(sys.argv[1]))
