#!/usr/bin/env python3
"""Measures this crate against PyTorch and what it exports to, ONNX Runtime and OpenVINO (and candle and
burn), in turn, on the same weights and inputs, and says which of the marks in work.py are met.

    python3 benches/peers/run.py --quick            some ten minutes, after the first run's downloads
    python3 benches/peers/run.py                    everything
    python3 benches/peers/run.py --only 'attention n=512 '

Needs Python 3.10 or later, cargo, and (for PyTorch at its best) Linux and cc, (for torch.compile) g++.
Makes an environment of its own below target/peers.  Ends with code 1 where a mark is missed and with
code 2 where something, or one of the rivals, could not be measured.
"""

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from statistics import median

import report
from children import ROOT, Children, Failed, Load, build_python, build_rust, clean_environment, make_folder, some_cpus
from work import INSTALLED, RUST_SIZES, WORK, Contender

# Where the environment and the executables are made.
WORKSHOP = ROOT / "target/peers"

# Whoever the contender is, the driver's model that computes the same function, and who draws its weights.
TWINS = {"lucidrains_attention": "attention", "tatp22_attention": "attention",
         "exact_attention": "exact", "lucidrains_encoder": "encoder",
         "transformer_encoder": "exact_encoder"}
MAKERS = {"attention": "lucidrains_attention", "exact": "lucidrains_attention", "local_global": "lucidrains_attention",
          "encoder": "lucidrains_encoder", "exact_encoder": "transformer_encoder"}

# Where single calls are too short to time by themselves: those that warm up in every turn, and the timed ones of all rounds together.
LATENCY_WARM, LATENCY_CALLS = 50, 2000
LATENCY_ROUNDS = 8
# The same of calls after idling, in every turn, and of those in a loop beside them.
IDLE_CALLS, IDLE_ROUNDS = 8, 12
QUICK_IDLE_CALLS, QUICK_IDLE_ROUNDS = 5, 5
# A call shorter than LONG is preceded in every turn by untimed ones that take this long together: so all find warm caches and
# awake threads, and these are on processors of their own (Linux wakes two threads on one, and takes some 15 ms to part them).
WARM = 0.05
LONG = 0.5
GEMM_SIZE = 2048


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less work, fewer rounds; without candle and burn")
    parser.add_argument("--only", metavar="PATTERN", default="", help="only work whose name has this regular expression")
    parser.add_argument("--rounds", type=int, help="rounds of each piece of work; as many as fit in a time if not given")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between calls, for OpenMP's threads to fall asleep")
    parser.add_argument("--rust", action=argparse.BooleanOptionalAction, help="measure candle and burn (default: unless --quick)")
    parser.add_argument("--python", type=Path, help="an interpreter that has the packages, instead of a new environment")
    parser.add_argument("--out", type=Path, default=WORKSHOP, help="where results.json and results.md go")
    parser.add_argument("--list", action="store_true", help="print the names of the work and end")
    arguments = parser.parse_args()
    if arguments.rust is None:
        arguments.rust = not arguments.quick
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


class Run:
    """One run: its processes, its files, what is known of the machine's peak so far."""

    def __init__(self, arguments, children):
        self.arguments, self.children = arguments, children
        self.folder = None  # for weights and inputs of the work at hand
        self.random = random.Random(0)
        self.peaks, self.gemms = {}, {}

    def contenders(self, work):
        """Who can be tried here; PyTorch as installed counts where there is no better."""
        found = [contender for contender in work.contenders
                 if contender.process == "ours" or self.children.available(contender, work.threads)]
        best = any(contender.process == "best" for contender in found)
        return [replace(contender, counts=contender.counts or (contender.name == INSTALLED and not best)) for contender in found]

    def make(self, work, twin, threads):
        """Files of weights and input for a model of the driver."""
        maker = MAKERS[twin]
        files = {kind: str(self.folder / f"{maker}.{kind}") for kind in ("weights", "input")}
        if not Path(files["weights"]).exists():
            self.children.of("exporter", threads).ask(
                "make", model=maker, options=work.options(maker), shape=self.shape(work), seed=1, **files)
        return files

    @staticmethod
    def shape(work):
        return [work.batch, work.n, work.dim]

    def load(self, work, contender):
        """Loads a model in its process and returns what asks for it."""
        twin = contender.model if contender.process == "ours" else TWINS[contender.model]
        files, shape = self.make(work, twin, work.threads), self.shape(work)
        # The driver and PyTorch take the same options, those of the package whose weights they are.
        options = work.options(MAKERS[twin])
        if contender.process in ("onnxruntime", "openvino"):
            exported = self.folder / f"{contender.model}.onnx"
            if not exported.exists():
                self.children.of("exporter", work.threads).ask(
                    "export", model=contender.model, options=options, shape=shape, path=str(exported), **files)
            what = {"exported": str(exported), "input": files["input"]}
        else:
            what = {"model": contender.model, "options": options, **files}
            what |= {} if contender.process == "ours" else {"dtype": contender.dtype, "compile": contender.compile}
        child = self.children.of(contender.process, work.threads)
        child.ask("load", id=contender.name, shape=shape, **what)
        return child

    def error(self, work, contender):
        """Loads a contender and returns how far its output is from that of the driver's model of the same function."""
        twin = TWINS[contender.model]
        output = self.folder / f"{twin}.output"
        if not output.exists():
            ours = self.load(work, Contender("check", twin, "ours"))
            ours.ask("write", id="check", path=str(output))
            ours.ask("drop", id="check")
        child = self.load(work, contender)
        error = child.ask("check", id=contender.name, path=str(output))["error"]
        if not error <= contender.tolerance:
            child.ask("drop", id=contender.name)
            raise Failed(f"the outputs differ by {error:.1e}, at most {contender.tolerance:g} is allowed")
        return error

    def check(self, work, contenders):
        """Loads and compares everyone: the errors of those that can run, and why others cannot."""
        errors, absent = {}, {}
        for contender in contenders:
            try:
                if contender.process == "ours":
                    self.load(work, contender)
                else:
                    errors[contender.name] = self.error(work, contender)
            except Failed as error:
                absent[contender.name] = str(error)
                print(f"  {contender.name} cannot be measured: {error}", file=sys.stderr)
        # A rival's fault is its own, but ours is the likelier one if PyTorch itself differs or nobody agrees.
        counting = [contender.name for contender in contenders if contender.counts]
        if INSTALLED in absent or (counting and all(name in absent for name in counting)):
            raise Failed("; ".join(f"{name}: {reason}" for name, reason in absent.items()))
        return errors, absent

    def measure(self, work):
        if work.n >= 16384 and any(contender.model == "transformer_encoder" for contender in work.contenders) and not has_memory(14 << 30):
            raise Failed("PyTorch stores all scores here and needs 14 GiB")
        contenders = self.contenders(work)
        try:
            errors, absent = self.check(work, contenders)
            contenders = [contender for contender in contenders if contender.name not in absent]
            self.measure_peak(work)
            ours = Contender("ours", work.model, "ours")
            self.load(work, ours)
            load = Load(self.children.pids())
            rounds = self.rounds(work, [ours, *contenders])
            others = load.others()
        finally:
            self.drop(["ours", *(contender.name for contender in work.contenders)])
        return self.result(work, contenders, {"errors": errors, "absent": absent, "others": others}, rounds)

    def drop(self, names):
        for child in list(self.children.running.values()):
            for name in names:
                try:
                    child.ask("drop", id=name)
                except Failed:
                    break  # it has ended, and its models with it

    def measure_peak(self, work):
        driver = self.children.of("ours", work.threads)
        peak = driver.ask("peak", threads=work.threads, seconds=0.3)["flops"]
        self.peaks[work.threads] = max(peak, self.peaks.get(work.threads, 0))
        if work.model == "exact":
            speeds = {process: 2 * GEMM_SIZE**3 / self.children.of(process, work.threads).ask("gemm", size=GEMM_SIZE)["seconds"]
                      for process in ("ours", "installed", "best") if process != "best" or self.children.preload}
            self.gemms[work.threads] = speeds

    def turn(self, work, contender, warm, calls, idle=0.0):
        time.sleep(self.arguments.pause)
        return self.children.of(contender.process, work.threads).ask("time", id=contender.name, warm=warm, calls=calls, idle=idle)

    def rounds(self, work, contenders):
        """Rounds in which each has one turn, in random order."""
        quick = self.arguments.quick
        if work.latency:
            count = self.arguments.rounds or LATENCY_ROUNDS
            calls = math.ceil(LATENCY_CALLS / count) * (1 if quick else 2)
            plan = {contender.name: (LATENCY_WARM, calls) for contender in contenders}
        else:
            plan, count = self.plan(work, contenders)
        if work.idle:
            calls, most = (QUICK_IDLE_CALLS, QUICK_IDLE_ROUNDS) if quick else (IDLE_CALLS, IDLE_ROUNDS)
            plan = {name: (warm, calls) for name, (warm, _) in plan.items()}
            count = self.arguments.rounds or most
        rounds = []
        for _ in range(count):
            entry = {}
            for contender in self.random.sample(contenders, len(contenders)):
                warm, calls = plan[contender.name]
                entry[contender.name] = self.turn(work, contender, warm, calls)
                if work.idle:
                    entry[contender.name] = {"loop": entry[contender.name]["seconds"], **self.turn(work, contender, 1, calls, work.idle)}
            rounds.append(entry)
        return rounds

    def plan(self, work, contenders):
        """Calls of each turn, and as many rounds as fit in the time for a piece of work."""
        plan, total = {}, 0
        for contender in contenders:
            seconds = self.turn(work, contender, 0, 1)["seconds"][0]
            if seconds < LONG:
                seconds = min(seconds, *self.turn(work, contender, 1, 2)["seconds"])
            warm = math.ceil(WARM / seconds) if seconds < LONG else 0
            plan[contender.name] = (warm, 1)
            total += (warm + 1) * seconds + self.arguments.pause
        budget, least, most = (6, 3, 15) if self.arguments.quick else (40, 5, 41)
        return plan, self.arguments.rounds or max(least, min(most, round(budget / total)))

    def result(self, work, contenders, found, rounds):
        samples = {name: [median(entry[name]["seconds"]) for entry in rounds] for name in rounds[0]}
        ours = samples["ours"]
        result = {"name": work.name, "group": work.group, "work": describe(work), "median": median(ours), "rounds": len(rounds),
                  "samples": samples, "flops": work.flops(), "threads": work.threads, **found}
        result["contenders"] = [
            {"name": contender.name, **report.compare(ours, samples[contender.name], contender.must)} for contender in contenders]
        counting = [contender.name for contender in contenders if contender.counts]
        if counting:
            result["fastest"] = report.fastest(ours, {name: samples[name] for name in counting}, work.must)
        if work.latency:
            result["latencies"] = {name: latencies(rounds, name) for name in samples}
            for entry in result["contenders"]:
                entry["p99"] = result["latencies"][entry["name"]]["p99"]
        elif work.batch >= 1024:
            result["rate"] = work.batch / result["median"]
        if work.idle:
            result["loops"] = {name: [median(entry[name]["loop"]) for entry in rounds] for name in samples}
            result["figures"] = [report.quotient("idle / loop", ours, result["loops"]["ours"], work.must_idle, at_least=False)]
            for entry in result["contenders"]:
                entry["idle"] = entry["median"] / median(result["loops"][entry["name"]])
        return result

    def add_shares(self, results):
        """Shares of the largest peak that was found."""
        for result in results:
            if "samples" in result and result["threads"] in self.peaks and result["work"]["dim"] >= 64 and "loops" not in result:
                result["share"] = result["flops"] / result["median"] / self.peaks[result["threads"]]


def describe(work):
    return {field.name: getattr(work, field.name) for field in fields(work) if field.name != "contenders"}


def latencies(rounds, name):
    """Percentiles of all calls of all rounds, in seconds."""
    calls = [seconds for entry in rounds for seconds in entry[name]["seconds"]]
    return {"calls": len(calls), "p50": median(calls), "p99": report.percentile(calls, 0.99)}


def has_memory(bytes_needed):
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 >= bytes_needed
    except OSError:
        pass
    return True


def measure_all(arguments, run, works):
    for index, work in enumerate(works, 1):
        print(f"[{index}/{len(works)}] {work.name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=WORKSHOP) as folder:
            run.folder = Path(folder)
            try:
                yield run.measure(work)
            except Failed as error:
                print(f"  not measured: {error}", file=sys.stderr)
                yield {"name": work.name, "group": work.group, "failed": str(error)}


def rust_sizes(arguments, threads):
    return [n for n in RUST_SIZES if re.search(arguments.only, rust_name(n, threads))]


def rust_name(n, threads):
    return f"candle and burn n={n} {threads} thread{'s' * (threads > 1)}"


def measure_rust(arguments, threads):
    """candle and burn in a process with this crate: as released, then with gemm's x86-v4."""
    group = "candle and burn"
    sizes = rust_sizes(arguments, threads)
    for features in ((), ("x86-v4",)):
        if not sizes:
            return
        build = "with x86-v4" if features else "as released"
        try:
            executable = build_rust("rust", WORKSHOP, features)
            load = Load([])
            answers = run_rust(executable, sizes, arguments.rounds or 9, threads)
            others = load.others()
        except (subprocess.CalledProcessError, json.JSONDecodeError) as error:
            yield {"name": f"{group} {build}", "group": group, "failed": str(error)}
            continue
        for answer in answers:
            ours = answer["seconds"].pop("linformer")
            contenders = [{"name": peer, **report.compare(ours, theirs)} for peer, theirs in answer["seconds"].items()]
            yield {"name": f"{rust_name(answer['n'], threads)}, {build}", "group": group, "median": median(ours), "rounds": len(ours),
                   "others": others, "errors": answer["errors"], "contenders": contenders}


def run_rust(executable, sizes, rounds, threads):
    cpus = some_cpus(threads)
    pin = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    command = [str(executable), "--n", ",".join(map(str, sizes)), "--rounds", str(rounds)]
    output = subprocess.run(command, env=clean_environment(threads), check=True, stdout=subprocess.PIPE, text=True, preexec_fn=pin)
    return [json.loads(line) for line in output.stdout.splitlines()]


def main():
    arguments = parse_arguments()
    works = [work for work in WORK if re.search(arguments.only, work.name) and (work.quick or not arguments.quick)]
    if arguments.list:
        print("\n".join(work.name for work in works))
        print("\n".join(rust_name(n, threads) for threads in (2, 1) for n in rust_sizes(arguments, threads) if arguments.rust))
        return 0
    for folder in (WORKSHOP, arguments.out):
        make_folder(folder)
    results, machine = [], report.machine()
    if works:
        python = arguments.python or build_python(WORKSHOP)
        children = Children(python, build_rust("driver", WORKSHOP), WORKSHOP)
        run = Run(arguments, children)
        try:
            results += measure_all(arguments, run, works)
        finally:
            children.close()
        run.add_shares(results)
        machine |= facts(run)
    if arguments.rust:
        for threads in (2, 1):
            results += measure_rust(arguments, threads)
    document = {"machine": machine, "arguments": vars(arguments) | {"out": "", "python": ""}, "results": results}
    text = report.markdown(document)
    (arguments.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.out / "results.md").write_text(text)
    print(text)
    if any(entry["verdict"] == "MISSED" for _, entry in report.verdicts(results)):
        return 1
    return 2 if any("failed" in result or result.get("absent") for result in results) or not results else 0


def facts(run):
    """What the run found out about the machine and the packages."""
    found = {}
    for threads, peak in sorted(run.peaks.items()):
        found[f"multiply-adds, {threads} thread{'s' * (threads > 1)}"] = f"{peak / 1e9:.0f} GFLOP/s"
    for threads, speeds in run.gemms.items():
        rates = ", ".join(f"{process} {speed / 1e9:.0f}" for process, speed in speeds.items())
        found[f"product of two {GEMM_SIZE}² matrices, {threads} threads"] = f"{rates} GFLOP/s"
    for process, about in run.children.about.items():
        versions = [f"{name} {version}" for name, version in about.items() if isinstance(version, str)]
        found[process] = ", ".join(versions + about.get("libraries", []))
    if "installed" in run.children.about and not run.children.about["installed"]["bfloat16"]:
        found["bfloat16"] = "not measured: the processor has no instructions for it"
    return found


if __name__ == "__main__":
    sys.exit(main())
