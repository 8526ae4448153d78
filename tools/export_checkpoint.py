#!/usr/bin/env python3
"""Turn a PyTorch checkpoint of a Linformer into a .safetensors file.

    pip install torch safetensors
    python export_checkpoint.py model.pt model.safetensors

Reads a state dict, a whole pickled module, or a dict with one of these at any depth, of
lucidrains' linformer, tatp22's linformer-pytorch, fairseq's linformer_roberta or rifath95's
Causal-Linformer.  Optimisers, losses and counters beside the model are listed and left.  Where
two models could be meant, none is written, and --key says which: the keys from the outermost in,
with dots between them.

Shapes and dtypes stay as they are, and so do names, but for what wrappers put into them
(module., _orig_mod.) and for what a training framework puts before them (model.): where one part
of the names is a Linformer, that part is written and the rest listed.  --whole keeps everything.
A tensor stored under several names is written under each.

A file with anything but tensors and plain values in it (a whole module, fairseq's options) is
a program as much as data: unpickling runs code.  Such a file is read only with --trust-pickle,
and needs the packages whose classes are in it (linformer, linformer-pytorch, omegaconf).

tatp22's method="no_params" keeps its random projections out of the state dict, so that a state
dict alone cannot reproduce the model.  From a whole module they are written too, as E.{j} and
F.{j}, (n, k), for the attention at seq.{j}; as E.{j}.{h} where the heads' matrices differ; with
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

# Modules that wrap another one, or one within it.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")

# How the names of a whole model begin in each implementation, and those of a layer by itself.
MODELS = re.compile(r"token_emb\.weight|net\.(layers|blocks)\.\d|to_token_emb\.weight|seq\.\d+\.fn\."
                    r"|(encoder|decoder)\.sentence_encoder\.|token_embedding_table\.weight")
LAYERS = re.compile(r"to_q\.(\d+\.)?weight|w_?[12]\.weight|[kqv]_proj\.weight|in_proj_weight|compress_[kv]\.")

# Deeper in a file than this no model is looked for.
DEEPEST = 6


def fail(message):
    sys.exit("error: " + " ".join(str(message).split()))


def check_start(path):
    """Name what is plainly no PyTorch file; unpickling it would say less."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        fail(f"{path} is empty")
    if start[8:9] == b"{" and not any(start[5:8]):
        fail(f"{path} is a safetensors file already: give it to the crate as it is")
    if start.startswith(b"version https://git-lfs"):
        fail(f"{path} is a Git LFS pointer, not the file itself: fetch that with `git lfs pull`")
    if not (start.startswith(b"PK") or start[:1] == b"\x80" or start[257:262] == b"ustar"
            or start.startswith((b"(", b"c"))):
        fail(f"{path} is not a PyTorch checkpoint: it begins with {start[:8]!r}")


def read(path, trust):
    check_start(path)
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
        fail(f"{path} could not be read as tensors alone{what}: if it is a whole module or has "
             "other objects in it, and you trust where it comes from, add --trust-pickle, "
             "with which unpickling can run any code")
    except Exception as error:  # torch.load raises almost anything on a damaged file
        fail(f"cannot read {path}: {type(error).__name__}: {error}".split("\n")[0])


def listed(names, most=8):
    names = [str(name) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def state_of(level):
    """The names and values at a level of the file: a module's are those of its state dict."""
    return level.state_dict() if isinstance(level, torch.nn.Module) else level


def tensors_of(level):
    return {name: value for name, value in state_of(level).items() if isinstance(value, torch.Tensor)}


def is_optimizer(level):
    return isinstance(level, Mapping) and "param_groups" in level and "state" in level


def looks_like_model(level):
    """Whether the tensors of a level are named as a module's are, not as counters and losses."""
    tensors = tensors_of(level)
    if isinstance(level, torch.nn.Module):
        return bool(tensors)
    named = {name: value for name, value in tensors.items() if isinstance(name, str)}
    return any("." in name or name in ("weight", "bias") for name in named) or any(
        value.is_floating_point() and value.dim() > 1 for value in named.values())


class Search:
    """What there is in a file: the levels that look like models, by their paths."""

    def __init__(self, loaded):
        self.models, self.optimizers, self.numbered, self.loose = {}, [], [], []
        self.visit(loaded, ())

    def visit(self, level, path):
        if isinstance(level, torch.nn.Module):
            if looks_like_model(level):
                self.models[path] = level
            return
        if not isinstance(level, Mapping) or len(path) > DEEPEST:
            return
        if is_optimizer(level):
            self.optimizers.append(path)
            return
        before = len(self.models)
        for key, value in level.items():
            self.visit(value, (*path, str(key)))
        tensors = tensors_of(level)
        if tensors and not any(isinstance(name, str) for name in tensors):
            self.numbered.append(path)
            return
        dotted = any(isinstance(name, str) and "." in name for name in tensors)
        if looks_like_model(level) and (dotted or len(self.models) == before):
            self.models[path] = level
        else:
            self.loose += [".".join((*path, str(name))) for name in tensors]

    def only(self, loaded):
        """The one model, and its path."""
        if len(self.models) == 1:
            return next(iter(self.models.items()))
        if self.models:
            found = [f"{'.'.join(path) or '(the file itself)'} ({len(tensors_of(level))} tensors)"
                     for path, level in self.models.items()]
            fail(f"{len(found)} models could be meant: {listed(found)}; name one with --key")
        if self.optimizers:
            fail("this is the state of an optimiser (state and param_groups), not of a model: "
                 "give the file that model.state_dict() was saved to")
        if self.numbered:
            fail("the tensors have numbers for names, not those of a model's parameters: "
                 "save model.state_dict() instead")
        if self.loose:
            fail(f"there are tensors, but no model: {listed(self.loose)}; give the file that "
                 "model.state_dict() was saved to, or name a level with --key")
        if isinstance(loaded, Mapping):
            fail(f"the file holds no state dict and no module; its keys are {listed(loaded) or 'none'}")
        fail(f"found a {type(loaded).__name__} where a state dict or a module was expected")


def resolve(level, path):
    """The level at `path`, and what its names must begin with; None if there is none."""
    if not path:
        return level, ""
    if isinstance(level, (list, tuple)):
        level = dict(enumerate(level))
    if isinstance(level, Mapping):
        # keys can have dots in them
        for key, value in sorted(level.items(), key=lambda item: -len(str(item[0]))):
            if path == str(key) or path.startswith(f"{key}."):
                found = resolve(value, path[len(str(key)) + 1:])
                if found is not None:
                    return found
    if isinstance(level, (Mapping, torch.nn.Module)):
        if any(str(name).startswith(f"{path}.") for name in tensors_of(level)):
            return level, f"{path}."
    return None


def find(loaded, key):
    """The level of the file that is the model, what its names must begin with, and what is beside it."""
    prefix = ""
    if key is not None:
        found = resolve(loaded, key)
        if found is None:
            names = listed(loaded) if isinstance(loaded, Mapping) else "no keys"
            fail(f"no key '{key}' in the file; it has {names}")
        loaded, prefix = found
        if isinstance(loaded, torch.Tensor):
            fail(f"'{key}' is a tensor, not a state dict or a module")
        if prefix or (isinstance(loaded, Mapping) and tensors_of(loaded) and not is_optimizer(loaded)
                      and all(isinstance(name, str) for name in tensors_of(loaded))):
            return loaded, prefix, []
    search = Search(loaded)
    path, level = search.only(loaded)
    if key is None and path:
        print(f"took {'.'.join(path)}")
    beside = [".".join(path) + " (an optimiser)" for path in search.optimizers]
    return level, prefix, beside + search.loose


def unwrapped(name):
    """A name without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def part_of(names):
    """The beginning of the names that one Linformer has and the others lack; '' for all of them."""
    def is_both(side):
        return any(re.match(rf"{side}\.(to_token_emb|linformer)\.", name) for name in names)

    if any(MODELS.match(name) or LAYERS.match(name) for name in names) or (is_both("encoder") and is_both("decoder")):
        return ""
    parts = set()
    for name in names:
        starts = [0] + [dot.end() for dot in re.finditer(r"\.", name)]
        parts.update(name[:start] for start in starts if MODELS.match(name, start))
        if len(starts) > 1 and LAYERS.match(name, starts[1]):
            parts.add(name[:starts[1]])
    parts = {part for part in parts if not any(part != other and part.startswith(other) for other in parts)}
    if len(parts) > 1:
        choice = listed(f"--strip-prefix {part}" for part in sorted(parts))
        fail(f"the names have {len(parts)} models in them: choose one with {choice}, or all with --whole")
    if not parts and any(name.startswith("model.") for name in names):
        return "model."
    return parts.pop() if parts else ""


def renamed(names, args, prefix):
    """The new name of each of the names that are taken."""
    new = {}
    for name in names:
        if str(name).startswith(prefix):
            rest = str(name)[len(prefix):]
            new[name] = rest if args.whole else unwrapped(rest)
    part = args.strip_prefix or ("" if args.whole else part_of(list(new.values())))
    taken = {}
    for old, name in new.items():
        # a prefix can be given as the file has it, too
        for start in (name, str(old)[len(prefix):]):
            if start.startswith(part):
                rest = start[len(part):]
                taken[old] = rest if args.whole else unwrapped(rest)
                break
    if not taken:
        fail(f"no name begins with '{part}'; there are {listed(new.values())}")
    if part:
        print(f"took the names that begin with {part}")
    clash = {name for name in taken.values() if list(taken.values()).count(name) > 1} if (
        len(set(taken.values())) < len(taken)) else ()
    if clash:
        fail(f"two tensors would be named {listed(sorted(clash))}: choose the part that is meant with --strip-prefix")
    return taken, part


def unsaved_projections(module, part):
    """tatp22's fixed E and F, which are plain attributes of the heads."""
    found = {}
    for name, layer in module.named_modules():
        heads = getattr(layer, "heads", None)
        name = unwrapped(name) + "."
        if not isinstance(heads, torch.nn.ModuleList) or len(heads) == 0 or not name.startswith(part):
            continue
        if not all(getattr(head, "is_proj_tensor", False) for head in heads):
            continue
        name = name[len(part):]
        side = re.match(r"(?:.*\.)?((?:encoder|decoder)\.)", name)
        index = re.search(r"(?:^|\.)seq(\.\d+)\.", name)
        for which in "EF":
            matrices = [getattr(head, which) for head in heads]
            place = (side.group(1) if side else "") + which + (index.group(1) if index else "")
            if all(torch.equal(matrices[0], m) for m in matrices[1:]):
                found[place] = matrices[0]
            else:
                found.update({f"{place}.{h}": m for h, m in enumerate(matrices)})
    return found


def write(tensors, output):
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


def collect(level, prefix, args):
    """The tensors to write by name, the names that share one, and what was left."""
    state = state_of(level)
    tensors, left, places = {}, [], {}
    names = [name for name in state if isinstance(state[name], torch.Tensor)]
    counter = [name for name in names if str(name).split(".")[-1] == "n_averaged" and not args.whole]
    taken, part = renamed([name for name in names if name not in counter], args, prefix)
    for name, value in state.items():
        if name not in taken:
            kind = "" if isinstance(value, torch.Tensor) else f" ({type(value).__name__}, not a tensor)"
            left.append(f"{name}{kind}")
            continue
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            fail(f"'{name}' is not a plain dense tensor")
        # a copy each: safetensors refuses tensors that share memory
        tensors[taken[name]] = value.detach().clone(memory_format=torch.contiguous_format)
        if value.numel() > 0:
            places.setdefault((value.data_ptr(), tuple(value.shape), value.stride()), []).append(taken[name])
    if isinstance(level, torch.nn.Module):
        for name, value in unsaved_projections(level, unwrapped(prefix + part)).items():
            if name in tensors:
                fail(f"'{name}' is a name already in use")
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
            print(f"added {name} {tuple(value.shape)}, which the state dict lacks")
    elif any(re.search(r"(^|\.)to_q\.0\.weight$", name) for name in tensors) and not any(
            ".E" in f".{name}" for name in tensors):
        print("note: E and F are not in this state dict, as with method=\"no_params\": "
              "export the whole module (torch.save(model, …)) with --trust-pickle")
    return tensors, places, left


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".pt, .pth, .ckpt or .bin file")
    parser.add_argument("output", type=Path, nargs="?",
                        help="file to write (default: the checkpoint's name with .safetensors)")
    parser.add_argument("--trust-pickle", action="store_true",
                        help="read a file that holds more than tensors: this can run any code in it")
    parser.add_argument("--key", help="where in the file the model is: keys with dots between them")
    parser.add_argument("--strip-prefix", metavar="P", default="",
                        help="take the names that begin with P, without it; for example model.")
    parser.add_argument("--whole", action="store_true", help="write every tensor, under the name that it has")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse(arguments)
    output = args.output or args.checkpoint.with_suffix(".safetensors")
    if not args.checkpoint.is_file():
        fail(f"no file {args.checkpoint}")
    if output.exists() and (not args.force or output.samefile(args.checkpoint)):
        fail(f"{output} exists; --force overwrites it, unless it is the checkpoint itself")

    level, prefix, beside = find(read(args.checkpoint, args.trust_pickle), args.key)
    tensors, places, left = collect(level, prefix, args)
    write(tensors, output)
    for names in places.values():
        if len(names) > 1:
            print(f"one tensor under {len(names)} names: {names[0]} … {names[-1]}")
    for name in left + beside:
        print(f"left {name}")


if __name__ == "__main__":
    main()
