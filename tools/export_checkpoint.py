#!/usr/bin/env python3
"""Turn a PyTorch checkpoint of a Linformer into a .safetensors file.

    pip install torch safetensors
    python export_checkpoint.py model.pt model.safetensors

Reads a state dict, a dict that holds one (under model, state_dict or model_state_dict), or a
whole pickled module, of lucidrains' linformer, tatp22's linformer-pytorch or fairseq's
linformer_roberta.  Names, shapes and dtypes stay as they are; a tensor stored under several
names is written under each; what is not a tensor is listed and dropped.

A file with anything but tensors and plain values in it (a whole module, fairseq's options) is
a program as much as data: unpickling runs code.  Such a file is read only with --trust-pickle,
and needs the packages whose classes are in it (linformer, linformer-pytorch, omegaconf).

tatp22's method="no_params" keeps its random projections out of the state dict, so that a state
dict alone cannot reproduce the model.  From a whole module they are written too, as E.{j} and
F.{j}, (n, k), for the attention at seq.{j}; as E.{j}.{h} where every head h has its own; with
encoder. or decoder. in front for an encoder-decoder.
"""

import argparse
import os
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

KEYS = ("model", "state_dict", "model_state_dict")


def fail(message):
    sys.exit(f"error: {message}")


def read(path, trust):
    try:
        # argparse.Namespace holds the options in older fairseq checkpoints; it runs nothing
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except ModuleNotFoundError as error:
        fail(f"{path} holds objects of the module '{error.name}', which is not installed")
    except AttributeError as error:
        fail(f"{path} holds objects that the installed packages do not have ({error}); "
             "another version wrote it")
    except pickle.UnpicklingError as error:
        if trust:
            fail(f"{path} is not a PyTorch checkpoint, or is damaged ({error})")
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" (it holds a {found.group(1)})" if found else ""
        fail(f"{path} could not be read as tensors alone{what}.\n"
             "If it is a whole module or has other objects in it, and you trust where it comes "
             "from, add --trust-pickle: unpickling can run any code.")
    except Exception as error:  # torch.load raises almost anything on a damaged file
        fail(f"cannot read {path}: {type(error).__name__}: {error}".split("\n")[0])


def is_state_dict(value):
    return isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) for v in value.values())


def find(loaded, key):
    """The state dict in what the file held, and the module if it was a whole one."""
    if key is not None:
        if not isinstance(loaded, Mapping) or key not in loaded:
            names = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else "no keys"
            fail(f"no key '{key}' in the file; it has {names}")
        loaded = loaded[key]
    elif isinstance(loaded, Mapping) and not is_state_dict(loaded):
        found = [k for k in KEYS if isinstance(loaded.get(k), (Mapping, torch.nn.Module))]
        if len(found) != 1:
            names = ", ".join(map(str, loaded)) or "nothing"
            problem = f"holds several candidates ({', '.join(found)})" if found else "holds no state dict"
            fail(f"the file {problem}; its keys are {names}; name one with --key")
        loaded = loaded[found[0]]
    if isinstance(loaded, torch.nn.Module):
        return loaded.state_dict(), loaded
    if is_state_dict(loaded):
        return loaded, None
    fail(f"found a {type(loaded).__name__} where a state dict or a module was expected")


def unsaved_projections(module):
    """tatp22's fixed E and F, which are plain attributes of the heads."""
    found = {}
    for name, part in module.named_modules():
        heads = getattr(part, "heads", None)
        if not isinstance(heads, torch.nn.ModuleList) or len(heads) == 0:
            continue
        if not all(getattr(head, "is_proj_tensor", False) for head in heads):
            continue
        side = re.match(r"(?:.*\.)?((?:encoder|decoder)\.)", name)
        index = re.search(r"(?:^|\.)seq(\.\d+)\.", name + ".")
        for which in "EF":
            matrices = [getattr(head, which) for head in heads]
            place = (side.group(1) if side else "") + which + (index.group(1) if index else "")
            if all(torch.equal(matrices[0], m) for m in matrices[1:]):
                found[place] = matrices[0]
            else:
                found.update({f"{place}.{h}": m for h, m in enumerate(matrices)})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".pt, .pth, .ckpt or .bin file")
    parser.add_argument("output", type=Path, nargs="?",
                        help="file to write (default: the checkpoint's name with .safetensors)")
    parser.add_argument("--trust-pickle", action="store_true",
                        help="read a file that holds more than tensors: this can run any code in it")
    parser.add_argument("--key", help="where in the file the state dict is")
    parser.add_argument("--strip-prefix", metavar="P", default="",
                        help="drop P from the front of every name, for example module.")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    args = parser.parse_args()

    output = args.output or args.checkpoint.with_suffix(".safetensors")
    if not args.checkpoint.is_file():
        fail(f"no file {args.checkpoint}")
    if output.exists() and (not args.force or output.samefile(args.checkpoint)):
        fail(f"{output} exists; --force overwrites it, unless it is the checkpoint itself")

    state, module = find(read(args.checkpoint, args.trust_pickle), args.key)
    tensors, dropped, places = {}, [], {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            dropped.append(f"{name} ({type(value).__name__})")
            continue
        if args.strip_prefix:
            if not name.startswith(args.strip_prefix):
                fail(f"'{name}' does not begin with '{args.strip_prefix}'")
            name = name[len(args.strip_prefix):]
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            fail(f"'{name}' is not a plain dense tensor")
        # a copy each: safetensors refuses tensors that share memory
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        if value.numel() > 0:
            places.setdefault((value.data_ptr(), tuple(value.shape), value.stride()), []).append(name)
    if module is not None:
        for name, value in unsaved_projections(module).items():
            if name in tensors:
                fail(f"'{name}' is a name already in use")
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
            print(f"added {name} {tuple(value.shape)}, which the state dict lacks")
    if not tensors:
        fail("there is no tensor to write")

    part = output.with_name(output.name + ".part")
    try:
        save_file(tensors, part, metadata={"format": "pt"})
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)  # save_file makes a file for the owner alone
        os.replace(part, output)
    except Exception as error:
        part.unlink(missing_ok=True)
        fail(f"cannot write {output}: {error}")

    size = sum(t.numel() * t.element_size() for t in tensors.values())
    print(f"wrote {output}: {len(tensors)} tensors, {size} bytes")
    for names in places.values():
        if len(names) > 1:
            print(f"one tensor under {len(names)} names: {names[0]} … {names[-1]}")
    for name in dropped:
        print(f"dropped {name}: not a tensor")


if __name__ == "__main__":
    main()
