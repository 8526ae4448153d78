"""The files, one a case."""

import json
import zlib
from pathlib import Path

import torch

from fairseq_models import exact_f64, fairseq_state
from running import build, gradients, run
from tatp22 import randomise_unsaved, unsaved_projections
from tensors import draw, encode, randomise


class Goldens:
    def __init__(self, out, only):
        self.out, self.only, self.made, self.lines = Path(out), only, [], []

    def add(self, name, peer, config, inputs, expect="match", grad=False, note=None,
            prepare=None, after=None, heads=None):
        """inputs: name -> shape (drawn), or a tensor.

        prepare(model) runs before the forward pass, after(case, model, inputs) before writing.
        """
        if self.only and self.only not in name:
            return
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        torch.manual_seed(0)
        model = build(peer, config, heads)
        randomise(model, generator)
        if peer == "tatp22":
            randomise_unsaved(model, config, generator)
        if prepare:
            prepare(model)
        values = {}
        for key, value in inputs.items():
            values[key] = draw(generator, value) if isinstance(value, (tuple, list)) else value
        with torch.no_grad():
            output = run(peer, model, values, config)
        case = {"peer": peer, "config": config}
        if expect:
            case["expect"] = expect
        if note:
            case["note"] = note
        state = fairseq_state(model) if peer == "fairseq" else model.state_dict()
        if heads:
            case["classification_heads"] = heads
        case["state_dict"] = {key: encode(value) for key, value in state.items()}
        case["inputs"] = {key: encode(value) for key, value in values.items()}
        case["output"] = encode(output)
        if peer == "tatp22":
            for key, holders, which in unsaved_projections(model, config):
                case[key] = encode(getattr(holders[0], which))
        if peer == "fairseq":
            with exact_f64(), torch.no_grad():
                case["output_f64"] = encode(run(peer, model, values, config))
        if grad:
            if peer == "fairseq":
                with exact_f64():
                    gradients(peer, model, values, config, generator, case)
            else:
                gradients(peer, model, values, config, generator, case)
        if after:
            after(case, model, values)
        for key in ("output", "output_f64", "input_gradient"):
            if key in case and not all(map(_finite, case[key]["data"])):
                raise SystemExit(f"{name}: {key} is not finite")
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{name}.json").write_text(json.dumps(case) + "\n")
        self.made.append(name)
        options = ", ".join(f"{key}={value!r}" for key, value in config.items())
        shapes = ", ".join(f"{key} {'x'.join(map(str, value.shape))}" for key, value in values.items())
        extra = "; gradients" if grad else ""
        self.lines.append(f"- `{name}` [{expect or 'undecided'}] {type(model).__name__}({options}); "
                          f"{shapes}{extra}" + (f". {note[0].upper() + note[1:]}." if note else ""))

    def write_list(self):
        """Put one line a file under the last heading of README.md, keeping what is above."""
        readme = self.out / "README.md"
        above = readme.read_text() if readme.exists() else "# Goldens\n"
        above = above.split("\n## Files\n")[0].rstrip("\n")
        readme.write_text(above + "\n\n## Files\n\n" + "\n".join(self.lines) + "\n")


def _finite(value):
    return value == value and abs(value) != float("inf")
