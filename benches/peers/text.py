#!/usr/bin/env python3
"""Embeds texts with linformer-text, PyTorch, ONNX Runtime (the exported graph, and the one that its optimizer for BERT makes of it) and
OpenVINO, in turn, with the same model and tokenizer, all in f32:

    python3 benches/peers/text.py --model FOLDER             a folder of the model hub, such as all-MiniLM-L6-v2

measures texts of one length and a thousand sentences of this repository's text, then memory, and for how many texts each gives the same
bits alone and in batches.  Ratios are the rival's time over ours.  Needs Python 3.10 or later and cargo; makes an environment of its own
below target/peers/text.  Ends with code 1 where the vectors of a rival differ from ours, with code 2 where one cannot be
measured.
"""

import argparse
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from statistics import median

import report
from children import ENGINES, HERE, REQUIREMENTS, ROOT, Child, Failed, Load, build_python, build_rust, clean_environment, make_folder, some_cpus

WORKSHOP = ROOT / "target/peers"
PACKAGES = ["transformers==5.24.0", "tokenizers==0.23.3"]
RIVALS = ["pytorch", "onnxruntime", "onnxruntime-fused", "openvino"]
TEXT = ROOT / "examples/data/moby_dick.txt"

LENGTHS = (16, 64, 128, 512)
SENTENCES = 1000
# Sentence-transformers' batches are of 32; smaller ones have less padding.
MIXED_BATCHES = (32, 8)
# How far vectors may be from ours.
TOLERANCE = 1e-4
# Seconds that a turn takes at least, in calls; the same of calls before them that are not timed.
TURN, WARM = 0.4, 0.1


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of a model")
    parser.add_argument("--text", type=Path, default=TEXT, help="a text whose sentences are embedded")
    parser.add_argument("--only", metavar="PATTERN", default="", help="only work whose name has this regular expression")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="who is measured beside ours, with commas between them")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--batch-tokens", type=int, help="EmbedOptions::batch_tokens of ours")
    parser.add_argument("--python", type=Path, help="an interpreter that has the packages, instead of a new environment")
    parser.add_argument("--out", type=Path, default=WORKSHOP / "text", help="where results.json and results.md go")
    return parser.parse_args()


def sentences(path):
    text = " ".join(path.read_text().split())
    found = [sentence for sentence in re.split(r"(?<=[.!?]) ", text) if len(sentence) > 20]
    if len(found) < SENTENCES:
        sys.exit(f"{path} has {len(found)} sentences, {SENTENCES} are needed")
    return found


class Work:
    def __init__(self, name, texts, rival_batches, batch=None):
        self.name, self.texts, self.rival_batches, self.batch = name, texts, rival_batches, batch


def all_work(python, model, found):
    tokenizer = Child("tokenizer", [str(python), str(HERE / "text_worker.py"), "tokenizer"], clean_environment(1), None)
    tokenizer.ask("open", model=str(model))
    for batch in (1, 32):
        for length in LENGTHS:
            texts = tokenizer.ask("cut", words=" ".join(found).split(), length=length, count=batch)["texts"]
            yield Work(f"{batch} of {length} tokens", texts, (batch,))
    tokenizer.close()
    yield Work(f"{SENTENCES} sentences", random.Random(1).sample(found, SENTENCES), MIXED_BATCHES)


class Contenders:
    """The processes of one number of threads, each with the model open."""

    def __init__(self, arguments, python, driver, exported, threads):
        self.children, self.absent = {}, {}
        environment, cpus = clean_environment(threads), some_cpus(threads)
        model = str(arguments.model.resolve())
        for name in ["ours", *filter(None, arguments.rivals.split(","))]:
            command = [str(driver)] if name == "ours" else [str(python), str(HERE / "text_worker.py"), name]
            child = Child(name, command, environment, cpus)
            try:
                child.ask("open", model=model, **({} if name == "ours" else {"exported": str(exported), "threads": threads}))
                self.children[name] = child
            except Failed as error:
                child.close()
                if name == "ours":
                    raise
                self.absent[name] = str(error)

    def close(self):
        for child in self.children.values():
            child.close()


class Run:
    def __init__(self, arguments, python, driver, folder):
        self.arguments, self.python, self.driver, self.folder = arguments, python, driver, Path(folder)
        self.random = random.Random(0)
        self.failed = self.differs = False

    def contenders(self, threads):
        found = Contenders(self.arguments, self.python, self.driver, self.folder, threads)
        for name, reason in found.absent.items():
            print(f"{name} cannot be measured: {reason}", file=sys.stderr)
            self.failed = True
        return found

    def file(self, texts):
        path = self.folder / "texts.json"
        path.write_text(json.dumps(texts))
        return str(path)

    def load(self, child, name, work, batch):
        """Gives texts to a process; ours is given all of a batch, and cuts it up by itself."""
        own = {"batch": work.batch, "batch_tokens": self.arguments.batch_tokens} if name == "ours" else {"batch": batch}
        child.ask("load", id="texts" if name == "ours" else f"by {batch}", texts=self.file(work.texts), **own)
        return (name, "texts" if name == "ours" else f"by {batch}")

    def vectors(self, child, id):
        path = self.folder / "vectors"
        child.ask("write", id=id, path=str(path))
        return path.read_bytes()

    def measure(self, work, contenders, threads):
        turns = []
        for name, child in contenders.children.items():
            turns += [self.load(child, name, work, batch) for batch in (work.rival_batches if name != "ours" else (None,))]
        errors = self.errors(contenders, turns)
        turns = [turn for turn in turns if errors[turn] <= TOLERANCE]
        calls = {}
        for name, id in turns:
            # The vectors above were the first call, which warmed up.
            seconds = contenders.children[name].ask("time", id=id, warm=0, calls=1)["seconds"][0]
            calls[name, id] = (math.ceil(WARM / seconds) if seconds < TURN else 0, math.ceil(TURN / seconds))
        samples, load = {turn: [] for turn in turns}, Load([child.process.pid for child in contenders.children.values()])
        for _ in range(self.arguments.rounds):
            for name, id in self.random.sample(turns, len(turns)):
                time.sleep(0.05)
                warm, count = calls[name, id]
                samples[name, id].append(median(contenders.children[name].ask("time", id=id, warm=warm, calls=count)["seconds"]))
        ours = median(samples["ours", "texts"])
        rivals = {" ".join(turn) if len(work.rival_batches) > 1 else turn[0]: median(found) / ours
                  for turn, found in samples.items() if turn[0] != "ours"}
        return {"name": work.name, "threads": threads, "seconds": ours, "rivals": rivals, "others": load.others(),
                "errors": {" ".join(turn): error for turn, error in errors.items()},
                "samples": {" ".join(turn): found for turn, found in samples.items()}}

    def errors(self, contenders, turns):
        """How far the vectors of each are from ours. Whose are too far is not measured: a graph can be exported wrongly."""
        numbers = lambda name, id: array("f", self.vectors(contenders.children[name], id))
        ours, errors = numbers("ours", "texts"), {}
        for name, id in turns:
            theirs = numbers(name, id)
            # `max` would drop NaN.
            found = [abs(a - b) if math.isfinite(b) else math.inf for a, b in zip(ours, theirs)]
            errors[name, id] = max(found) if len(theirs) == len(ours) else math.inf
            if not errors[name, id] <= TOLERANCE:
                print(f"{name} is not measured: its vectors differ by {errors[name, id]:.1e}, at most {TOLERANCE:g} is allowed", file=sys.stderr)
                self.differs = True
        return errors

    def memory(self, work):
        """The most memory of processes that have embedded 32 texts of the longest length, and nothing else."""
        contenders = self.contenders(2)
        found = {}
        for name, child in contenders.children.items():
            _, id = self.load(child, name, work, len(work.texts))
            child.ask("time", id=id, warm=0, calls=2)
            found[name] = child.ask("memory")["bytes"]
        contenders.close()
        return found

    def same_bits(self, texts):
        """For how many texts batches, padding and threads leave every bit as it is alone on one thread."""
        alone, shares = {}, {}
        for threads in (1, 2):
            contenders = self.contenders(threads)
            for name, child in contenders.children.items():
                batches = (1, 32) if threads == 1 else (32,)
                found = [self.rows(child, name, Work("", texts, (batch,), batch)) for batch in batches]
                alone.setdefault(name, found[0])
                for rows in found:
                    shares.setdefault(name, [True] * len(texts))
                    shares[name] = [same and a == b for same, a, b in zip(shares[name], alone[name], rows)]
            contenders.close()
        return {name: sum(same) for name, same in shares.items()}

    def rows(self, child, name, work):
        _, id = self.load(child, name, work, work.batch)
        vectors = self.vectors(child, id)
        size = len(vectors) // len(work.texts)
        return [vectors[start:start + size] for start in range(0, len(vectors), size)]


def markdown(results, memory, bits, count):
    lines = ["| texts | threads | ours | " + " | ".join(RIVALS) + " | fastest | others' load |", "|---|" + "---:|" * (len(RIVALS) + 4)]
    for result in results:
        of = lambda rival: [ratio for name, ratio in result["rivals"].items() if name.split(" ")[0] == rival]
        cells = [f"{min(of(rival)):.2f}×" if of(rival) else "–" for rival in RIVALS]
        lines.append(f"| {result['name']} | {result['threads']} | {result['seconds'] * 1e3:.2f} ms | " + " | ".join(cells)
                     + f" | {min(result['rivals'].values(), default=math.nan):.2f}× | {result['others']:.2f} |")
    if memory:
        lines += ["", "Most memory, 32 of 512 tokens: " + ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in memory.items())]
    if bits:
        lines += ["", f"Same bits alone, in batches of 32, on one and two threads, of {count} texts: "
                  + ", ".join(f"{name} {same}" for name, same in bits.items())]
    return "\n".join(lines) + "\n"


def main():
    arguments = parse_arguments()
    make_folder(arguments.out)
    python = arguments.python or build_python(WORKSHOP / "text", REQUIREMENTS + ENGINES + PACKAGES, [])
    driver = build_rust("text", WORKSHOP)
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        subprocess.run([python, HERE / "pooled.py", arguments.model, folder], check=True, stdout=sys.stderr)
        run = Run(arguments, python, driver, folder)
        works = list(all_work(python, arguments.model, sentences(arguments.text)))
        results = []
        for threads in (1, 2):
            chosen = [work for work in works if re.search(arguments.only, f"{work.name}, {threads} thread")]
            if not chosen:
                continue
            contenders = run.contenders(threads)
            for work in chosen:
                print(work.name, threads, file=sys.stderr)
                results.append(run.measure(work, contenders, threads))
                print(json.dumps({key: value for key, value in results[-1].items() if key != "samples"}), file=sys.stderr)
            contenders.close()
        memory = run.memory(works[7]) if re.search(arguments.only, "memory") else {}
        bits = run.same_bits(works[8].texts[:500]) if re.search(arguments.only, "bits") else {}
    text = markdown(results, memory, bits, 500)
    document = {"machine": report.machine(), "results": results, "memory": memory, "bits": bits}
    (arguments.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.out / "results.md").write_text(text)
    print(text)
    return 1 if run.differs else 2 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
