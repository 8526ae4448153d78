#!/usr/bin/env python3
"""Measures one training step (forward, mean squared error, backward, AdamW) of an encoder against
lucidrains' package on PyTorch, in turn, on the same weights and batch.

    python3 benches/peers/training.py --quick       n = 512 alone
    python3 benches/peers/training.py
    python3 benches/peers/training.py --long        our step alone, one sequence of up to 65,536

Every n has processes of its own, whose largest resident size is read at the end.  The losses of
each step are compared first and all along.  PyTorch at its best has a malloc that keeps memory from
step to step; ours beside it has the same settings.  Ends with code 1 where a mark is missed.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import report
from children import MALLOC, Child, Children, Failed, build_python, build_rust, clean_environment, make_folder, some_cpus
from run import WORKSHOP

DEPTH, DIM, HEADS, K, BATCH = 4, 512, 8, 128, 4
SIZES = (512, 2048, 4096)
# One sequence: the time of a step must grow linearly with it.
LONG_SIZES, LONG_ROUNDS, MOST_SLOPE = (4096, 16384, 65536), 3, 1.05
# Their seconds over ours at their best; our memory over theirs, at most.
MUST_BEST, MUST_MEMORY = 1.05, 0.5
TOLERANCE = 1e-4
# By itself MKL takes AVX-512 on Intel's processors only.
MKL_AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shortest sequence only, and fewer rounds")
    parser.add_argument("--long", action="store_true", help="our step alone, one long sequence")
    parser.add_argument("--sizes", default="", help="lengths, with commas")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mkl-avx2", action="store_true", help="keep MKL of PyTorch as installed at AVX2, as it is on AMD processors")
    parser.add_argument("--python", type=Path, help="an interpreter that has the packages, instead of a new environment")
    parser.add_argument("--out", type=Path, default=WORKSHOP, help="where training.json goes")
    return parser.parse_args()


def peak_bytes(child):
    """The largest resident size of a process so far."""
    for line in Path(f"/proc/{child.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def start(python, driver, preload, threads, mkl_avx2):
    """The contenders in fresh processes; each of ours has the memory settings of what it is compared with."""
    environment, cpus = clean_environment(threads), some_cpus(threads)
    worker = [str(python), str(Path(__file__).with_name("pytorch_worker.py"))]
    best = environment | MALLOC | ({"LD_PRELOAD": str(preload)} if preload else {})
    children = {"ours": Child("the driver", [str(driver)], environment, cpus),
                "ours_kept": Child("the driver (memory kept)", [str(driver)], environment | MALLOC, cpus),
                "installed": Child("PyTorch (installed)", worker, environment | (MKL_AVX2 if mkl_avx2 else {}), cpus),
                "best": Child("PyTorch (best)", worker, best, cpus)}
    for name in ("installed", "best"):
        children[name].ask("about", threads=threads)
    return children


def measure(n, batch, rounds, children, maker, folder):
    """Steps of `children` in turn, on what `maker` draws."""
    options = {"dim": DIM, "seq_len": n, "depth": DEPTH, "k": K, "heads": HEADS}
    shape = [batch, n, DIM]
    files = {kind: str(folder / kind) for kind in ("weights", "input", "target")}
    draw = {"model": "lucidrains_encoder", "options": options, "shape": shape}
    maker.ask("make", seed=2, weights=str(folder / "other"), input=files["target"], **draw)
    maker.ask("make", seed=1, weights=files["weights"], input=files["input"], **draw)
    for child in children.values():
        child.ask("train_load", options=options, shape=shape, **files)
    seconds = {name: [] for name in children}
    for turn in range(rounds + 1):
        losses = {}
        for name, child in children.items():
            time.sleep(0.05)
            answer = child.ask("train_step")
            losses[name] = answer["loss"]
            if turn > 0:  # the first step warms up
                seconds[name].append(answer["seconds"])
        for name, loss in losses.items():
            if not abs(loss - losses["ours"]) <= TOLERANCE * abs(loss):
                raise Failed(f"n={n}, step {turn}: the losses differ: {losses}")
    memory = {name: peak_bytes(child) for name, child in children.items()}
    return {"n": n, "seconds": seconds, "memory": memory}


def verdicts(result):
    seconds = result["seconds"]
    entries = {name: report.compare(seconds[ours], seconds[name], must)
               for ours, name, must in (("ours", "installed", None), ("ours_kept", "best", MUST_BEST))}
    share = result["memory"]["ours"] / result["memory"]["installed"]
    return entries, share


def table(results):
    lines = ["| n | ours | PyTorch as installed | ours, memory kept | PyTorch at its best | memory: ours | as installed | share |",
             "|---|---|---|---|---|---|---|---|"]
    for result in results:
        entries, share = verdicts(result)
        memory = result["memory"]
        met = "met" if share <= MUST_MEMORY else "MISSED"
        lines.append(f"| {result['n']} | {report.duration(median(result['seconds']['ours']))} | "
                     f"{report.ratio_cell(entries['installed'])} | {report.duration(median(result['seconds']['ours_kept']))} | "
                     f"{report.ratio_cell(entries['best'])} | "
                     f"{memory['ours'] / 2**20:.0f} MiB | {memory['installed'] / 2**20:.0f} MiB | "
                     f"{share:.2f} (must ≤ {MUST_MEMORY}: **{met}**) |")
    return "\n".join(lines)


def long_table(results):
    """Our steps, and the slope of log time against log n between the shortest sequence and the longest."""
    lines = ["| n, one sequence | a step | a thousand tokens | memory |", "|---:|---:|---:|---:|"]
    for result in results:
        seconds = median(result["seconds"]["ours"])
        lines.append(f"| {result['n']:,} | {report.duration(seconds)} | {report.duration(1000 * seconds / result['n'])} | "
                     f"{result['memory']['ours'] / 2**20:,.0f} MiB |")
    first, last = results[0], results[-1]
    seconds = [median(result["seconds"]["ours"]) for result in (first, last)]
    slope = math.log(seconds[1] / seconds[0]) / math.log(last["n"] / first["n"])
    verdict = "met" if slope <= MOST_SLOPE else "MISSED"
    return "\n".join(lines), f"slope {slope:.3f} (must ≤ {MOST_SLOPE}: {verdict})", verdict == "met"


def main():
    arguments = parse_arguments()
    default = LONG_SIZES if arguments.long else SIZES[:1] if arguments.quick else SIZES
    sizes = [int(size) for size in arguments.sizes.split(",") if size] or default
    if arguments.long and len(sizes) < 2:
        sys.exit("--long measures how time grows: it needs two lengths or more")
    for folder in (WORKSHOP, arguments.out):
        make_folder(folder)
    python, driver = arguments.python or build_python(WORKSHOP), build_rust("driver", WORKSHOP)
    preload = Children(python, driver, WORKSHOP).preload
    results = []
    for n in sizes:
        rounds = arguments.rounds or (LONG_ROUNDS if arguments.long else 3 if arguments.quick else 5)
        children = start(python, driver, preload, arguments.threads, arguments.mkl_avx2)
        try:
            with tempfile.TemporaryDirectory(dir=WORKSHOP) as folder:
                measured = {"ours": children["ours"]} if arguments.long else children
                batch = 1 if arguments.long else BATCH
                results.append(measure(n, batch, rounds, measured, children["installed"], Path(folder)))
        finally:
            for child in children.values():
                child.close()
        if not arguments.long:
            print(table(results[-1:]), file=sys.stderr)
    (arguments.out / ("training_long.json" if arguments.long else "training.json")).write_text(json.dumps({"machine": report.machine(), "results": results}, indent=1) + "\n")
    if arguments.long:
        lines, slope, met = long_table(results)
        print(lines, slope, sep="\n\n")
        return 0 if met else 1
    print(table(results))
    missed = any(entry["verdict"] == "MISSED" for result in results for entry in verdicts(result)[0].values())
    return 1 if missed or any(verdicts(result)[1] > MUST_MEMORY for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
