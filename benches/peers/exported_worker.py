"""Runs and times models that PyTorch has exported to ONNX, in ONNX Runtime or OpenVINO, for run.py: the engine is the argument.
PyTorch is not imported here, so that no other pool of threads is in the process."""

import importlib.metadata
import sys

import numpy as np

from worker import relative_error, serve, time_calls


class OnnxRuntime:
    """Input and output stay where they are from call to call, as ours do."""

    def __init__(self, path, x, threads):
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(x))
        self.binding.bind_ortvalue_input(self.session.get_inputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
        self.binding.bind_ortvalue_output(self.session.get_outputs()[0].name, self.output)

    def call(self):
        self.session.run_with_iobinding(self.binding)

    def result(self):
        return self.output.numpy()


class OpenVino:
    """In f32: by itself it takes bf16 where the processor has AMX."""

    def __init__(self, path, x, threads):
        import openvino

        core = openvino.Core()
        model = core.compile_model(core.read_model(path), "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"})
        self.input = x  # the tensor shares its memory
        self.request = model.create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(self.input, shared_memory=True))

    def call(self):
        self.request.infer()

    def result(self):
        return self.request.get_output_tensor(0).data


ENGINES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


class Worker:
    def __init__(self, package):
        self.package, self.engine = package, ENGINES[package]
        self.loaded, self.threads = {}, 1

    def about(self, threads):
        self.threads = threads
        return {self.package: importlib.metadata.version(self.package)}

    def load(self, id, exported, input, shape):
        x = np.fromfile(input, "<f4").reshape(shape)
        self.loaded[id] = self.engine(exported, x, self.threads)

    def check(self, id, path):
        self.loaded[id].call()
        return {"error": relative_error(self.loaded[id].result(), path)}

    def time(self, id, warm, calls, idle=0.0):
        return {"seconds": time_calls(self.loaded[id].call, warm, calls, idle)}

    def drop(self, id):
        self.loaded.pop(id, None)


if __name__ == "__main__":
    serve(Worker(sys.argv[1]))
