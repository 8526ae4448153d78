"""Files as people save them, made by the real packages, through export_checkpoint.py.

    python -m unittest discover tools/tests
"""

import contextlib
import importlib.util
import io
import pickle
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

import torch
from linformer import Linformer, LinformerLM, LinformerSelfAttention
from linformer_pytorch import Linformer as TatLinformer
from linformer_pytorch import LinformerLM as TatLM
from linformer_pytorch import MHAttention
from safetensors import safe_open
from safetensors.torch import load_file

TOOL = Path(__file__).resolve().parent.parent / "export_checkpoint.py"
spec = importlib.util.spec_from_file_location("export_checkpoint", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

torch.set_num_threads(1)


class Training(torch.nn.Module):
    """What a training framework saves: a model, and what it is trained with."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.criterion = torch.nn.Linear(3, 2)


def language_model():
    torch.manual_seed(1)
    return LinformerLM(num_tokens=11, dim=8, seq_len=6, depth=2, k=3, heads=2)


def models():
    """Models of both packages, by name."""
    torch.manual_seed(2)
    return {
        "lucidrains language model": language_model(),
        "lucidrains encoder": Linformer(dim=8, seq_len=6, depth=1, k=3, heads=2),
        "lucidrains reversible": Linformer(dim=8, seq_len=6, depth=1, k=3, heads=2, reversible=True),
        "lucidrains layer": LinformerSelfAttention(8, 6, k=3, heads=2),
        "tatp22 language model": TatLM(num_tokens=11, input_size=6, channels=8, dim_k=3, nhead=2),
        "tatp22 wider words": TatLM(num_tokens=11, input_size=6, channels=8, dim_k=3, nhead=2, emb_dim=6),
        "tatp22 encoder": TatLinformer(6, 8, 3, nhead=2, depth=2, parameter_sharing="none"),
        "tatp22 decoder": TatLinformer(6, 8, 3, nhead=2, depth=1, decoder_mode=True),
    }


def compiled_inside(model):
    """A model one of whose modules was compiled: _orig_mod. inside the names."""
    for name, child in list(model.named_children()):
        if any(True for _ in child.parameters()):
            setattr(model, name, torch.compile(child))
            return model
    raise AssertionError("a model without children")


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "model.pt"
        self.output = self.path.with_suffix(".safetensors")

    def run_tool(self, saved, *arguments):
        """What the tool says and the error that it ends with."""
        self.output.unlink(missing_ok=True)
        if isinstance(saved, bytes):
            self.path.write_bytes(saved)
        elif saved is not None:
            torch.save(saved, self.path)
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tool.main([str(self.path), *arguments])
        except SystemExit as end:
            self.assertIsInstance(end.code, str)  # Python prints it and ends with 1
            self.assertFalse(self.output.exists(), "an error leaves no file")
            self.assertEqual(len(end.code.splitlines()), 1, end.code)
            return said.getvalue(), end.code
        return said.getvalue(), None

    def gives(self, saved, expected, *arguments):
        said, error = self.run_tool(saved, *arguments)
        self.assertIsNone(error)
        written = load_file(self.output)
        self.assertEqual(sorted(written), sorted(expected))
        for name, tensor in expected.items():
            self.assertTrue(torch.equal(written[name], tensor), name)
            self.assertEqual(written[name].dtype, tensor.dtype)
        return said

    def refuses(self, saved, *words, arguments=()):
        _, error = self.run_tool(saved, *arguments)
        self.assertIsNotNone(error, "an error was expected")
        for word in words:
            self.assertIn(word, error)
        return error


class Export(Case):
    def test_state_dicts_of_every_class(self):
        for name, model in models().items():
            with self.subTest(name):
                self.gives(model.state_dict(), model.state_dict())

    def test_whole_modules(self):
        for name, model in models().items():
            with self.subTest(name):
                self.refuses(model, "--trust-pickle")
                self.gives(model, model.state_dict(), "--trust-pickle")
                self.gives({"model": model, "epoch": 3}, model.state_dict(), "--trust-pickle")

    def test_the_level_that_looks_like_a_model(self):
        loose = {"best_val_loss": torch.tensor(0.5), "global_step": torch.tensor(7), "loss": torch.tensor([1.0]),
                 "rng_state": torch.get_rng_state(), "epoch": 3, "history": [0.1, 0.2], "args": {"lr": 1e-3}}
        for name, model in models().items():
            optimizer = torch.optim.AdamW(model.parameters())
            sum(p.sum() for p in model.parameters()).backward()
            optimizer.step()
            state = model.state_dict()
            for key in ("model", "state_dict", "model_state_dict", "net", "whatever"):
                with self.subTest(f"{name} under {key}"):
                    saved = {**loose, key: state, "optimizer_state_dict": optimizer.state_dict()}
                    said = self.gives(saved, state)
                    for beside in ("best_val_loss", "global_step", "loss", "rng_state", "optimizer_state_dict"):
                        self.assertIn(f"left {beside}", said)
            self.gives({"checkpoint": {"net": state, "step": torch.tensor(1)}, **loose}, state)
            self.gives({"a": {"b": {"c": state}}}, state)

    def test_two_models_are_a_question(self):
        state, other = language_model().state_dict(), Linformer(dim=8, seq_len=6, depth=1, k=3).state_dict()
        saved = {"model": state, "ema": {"shadow": other}, "step": torch.tensor(2)}
        self.refuses(saved, "2 models", "model (", "ema.shadow (", "--key")
        self.gives(saved, state, "--key", "model")
        self.gives(saved, other, "--key", "ema.shadow")
        self.gives(saved, other, "--key", "ema")
        self.refuses(saved, "no key 'other'", "model, ema, step", arguments=("--key", "other"))
        self.refuses(saved, "is a tensor", arguments=("--key", "step"))
        self.gives({"a.b": {"c.d": state}, "x": other}, state, "--key", "a.b.c.d")
        self.gives({"runs": [other, state], "x": other}, state, "--key", "runs.1")
        self.refuses({**state, "ema": state}, "2 models", "the file itself")

    def test_frameworks(self):
        for name, model in models().items():
            with self.subTest(name):
                state = Training(model).state_dict()
                lightning = {"state_dict": state, "optimizer_states": [], "pytorch-lightning_version": "2.0",
                             "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
                             "loops": {"fit_loop": {"state_dict": {}}}, "epoch": 1}
                said = self.gives(lightning, model.state_dict())
                self.assertIn("left criterion.weight", said)
                self.gives(state, model.state_dict())
                self.gives(state, state, "--whole")
                self.gives(lightning, model.state_dict(), "--key", "state_dict.model")
                criterion = {"weight": state["criterion.weight"], "bias": state["criterion.bias"]}
                self.gives(lightning, criterion, "--strip-prefix", "criterion.")
                self.refuses(lightning, "no name begins with 'other.'", arguments=("--strip-prefix", "other."))
        student = torch.nn.ModuleDict({"student": language_model(), "teacher": language_model()})
        self.refuses(student.state_dict(), "2 models", "--strip-prefix student.", "--strip-prefix teacher.")
        self.gives(student.state_dict(), language_model().state_dict(), "--strip-prefix", "teacher.")

    def test_wrapped_models(self):
        for name, model in models().items():
            state = dict(model.state_dict())
            averaged = torch.optim.swa_utils.AveragedModel(model)
            wrapped = {
                "averaged": averaged.state_dict(),
                "compiled": torch.compile(model).state_dict(),
                "parallel": torch.nn.DataParallel(model).state_dict(),
                "both": {f"module._orig_mod.{key}": value for key, value in state.items()},
                "in a framework": {f"model._orig_mod.{key}": value for key, value in state.items()},
            }
            for wrapper, saved in wrapped.items():
                with self.subTest(f"{name} {wrapper}"):
                    self.gives(saved, state)
                    self.gives({"model": saved, "n": torch.tensor(1)}, state)
            self.assertIn("left n_averaged", self.gives(averaged.state_dict(), state))
            self.gives({"m": averaged}, state, "--trust-pickle")
            self.gives(torch.nn.DataParallel(model), state, "--trust-pickle")
            self.gives(torch.compile(model), state, "--trust-pickle")
            inside = compiled_inside(model).state_dict()
            self.assertTrue(any("_orig_mod." in key for key in inside))
            self.gives(inside, state)

    def test_wrappers_that_hide_a_second_tensor(self):
        state = {"module.net.layers.0.0.norm.weight": torch.ones(2), "net.layers.0.0.norm.weight": torch.zeros(2)}
        self.refuses(state, "two tensors would be named net.layers.0.0.norm.weight")
        self.gives(state, state, "--whole")

    def test_what_is_no_model(self):
        model = language_model()
        optimizer = torch.optim.Adam(model.parameters())
        sum(p.sum() for p in model.parameters()).backward()
        optimizer.step()
        self.refuses(optimizer.state_dict(), "optimiser", "model.state_dict()")
        self.refuses({"optimizer": optimizer.state_dict(), "epoch": 1}, "optimiser")
        self.refuses({0: torch.ones(2, 2), 1: torch.ones(2)}, "numbers for names", "state_dict()")
        self.refuses({"model": {0: torch.ones(2, 2)}}, "numbers for names")
        self.refuses({"loss": torch.tensor(1.0), "step": torch.tensor(3)}, "no model", "loss, step")
        self.refuses({"epoch": 3}, "its keys are epoch")
        self.refuses({}, "its keys are none")
        self.refuses(torch.ones(3), "found a Tensor")
        self.refuses([model.state_dict()], "found a list")
        self.gives([model.state_dict()], model.state_dict(), "--key", "0")

    def test_numbers_above_the_model(self):
        state = language_model().state_dict()
        self.gives({3: {"model": state}, "last": 3}, state)
        self.refuses({1: state, 2: state}, "2 models", "1 (", "2 (")
        self.gives({1: language_model().state_dict(), 2: state}, state, "--key", "2")

    def test_what_is_no_pytorch_file(self):
        torch.save(language_model().state_dict(), self.path)
        whole = self.path.read_bytes()
        for saved, word in [(b"", "is empty"), (b"<!DOCTYPE html><html>", "not a PyTorch checkpoint"),
                            (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
                            (b"\x1f\x8b" + bytes(40), "not a PyTorch checkpoint"), (whole[:200], "cannot read"),
                            ((2).to_bytes(8, "little") + b"{}", "safetensors file already"),
                            (pickle.dumps(language_model), "")]:
            self.assertIn("error: ", self.refuses(saved, word))

    def test_old_formats_of_torch(self):
        state = language_model().state_dict()
        torch.save(state, self.path, _use_new_zipfile_serialization=False)
        self.gives(None, dict(state))

    def test_dtypes_and_layouts_stay(self):
        state = language_model().state_dict()
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            self.gives({name: value.to(dtype) for name, value in state.items()},
                       {name: value.to(dtype) for name, value in state.items()})
        turned = {name: value.t().contiguous().t() if value.dim() == 2 else value for name, value in state.items()}
        self.gives(turned, dict(state))
        sparse = {**state, "token_emb.weight": state["token_emb.weight"].to_sparse()}
        self.refuses(sparse, "'token_emb.weight' is not a plain dense tensor")

    def test_a_file_is_replaced_only_on_demand(self):
        state = language_model().state_dict()
        torch.save(state, self.path)
        self.output.write_bytes(b"old")
        for arguments, code in ([], 1), (["--force"], 0):
            ended = subprocess.run([sys.executable, TOOL, self.path, *arguments], capture_output=True, text=True)
            self.assertEqual(ended.returncode, code, ended.stderr)
        self.assertEqual(sorted(load_file(self.output)), sorted(state))
        with safe_open(self.output, "pt") as file:
            self.assertEqual(file.metadata(), {"format": "pt"})


class FixedProjections(Case):
    """tatp22's method="no_params", whose matrices are in no state dict."""

    def names(self, sharing, heads, places):
        own = sharing == "none" and heads > 1
        return {f"{side}{place}{f'.{head}' if own else ''}"
                for side in "EF" for place in places for head in range(heads if own else 1)}

    def test_every_sharing_and_number_of_heads(self):
        for sharing in ("none", "headwise", "kv", "layerwise"):
            for heads in (1, 2, 4):
                for full in (False, True):
                    options = dict(nhead=heads, parameter_sharing=sharing, method="no_params", full_attention=full)
                    encoder = TatLinformer(6, 8, 3, depth=2, **options)
                    model = TatLM(num_tokens=11, input_size=6, channels=8, dim_k=3, depth=2, **options)
                    for module in (encoder, model, torch.nn.DataParallel(model), Training(model)):
                        with self.subTest(f"{sharing} {heads} {full} {type(module).__name__}"):
                            said, error = self.run_tool(module, "--trust-pickle")
                            self.assertIsNone(error)
                            added = {line.split()[1] for line in said.splitlines() if line.startswith("added")}
                            self.assertEqual(added, self.names(sharing, heads, [".0", ".2"]))
                            self.assertIn("E.0" if sharing != "none" or heads == 1 else "E.0.0", load_file(self.output))

    def test_a_layer_by_itself(self):
        for sharing in ("none", "headwise", "kv"):
            for heads in (1, 2):
                layer = MHAttention(6, 4, 4 * heads, 3, heads, 0.0, "C0", sharing, None, None, False, None, method="no_params")
                said, error = self.run_tool(layer, "--trust-pickle")
                self.assertIsNone(error)
                added = {line.split()[1] for line in said.splitlines() if line.startswith("added")}
                self.assertEqual(added, self.names(sharing, heads, [""]))

    def test_the_values_are_the_heads(self):
        encoder = TatLinformer(6, 8, 3, nhead=2, depth=1, parameter_sharing="none", method="no_params")
        self.run_tool(encoder, "--trust-pickle")
        written = load_file(self.output)
        for head, module in enumerate(encoder.seq[0].fn.heads):
            self.assertTrue(torch.equal(written[f"E.0.{head}"], module.E))
            self.assertTrue(torch.equal(written[f"F.0.{head}"], module.F))

    def test_a_state_dict_alone_says_that_they_are_missing(self):
        encoder = TatLinformer(6, 8, 3, nhead=2, method="no_params")
        said = self.gives(encoder.state_dict(), encoder.state_dict())
        self.assertIn("note: E and F are not in this state dict", said)


if __name__ == "__main__":
    unittest.main()
