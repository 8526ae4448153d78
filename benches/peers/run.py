#!/usr/bin/env python3
"""Measures this crate against PyTorch (and candle and burn), in turn, on the same weights and
inputs, and says which of the marks in work.py are met.

    python3 benches/peers/run.py --quick            a few minutes, after the first run's downloads
    python3 benches/peers/run.py                    everything
    python3 benches/peers/run.py --only 'attention n=512 '

Needs Python 3.10 or later, cargo, and (for PyTorch at its best) Linux and cc.  Makes an environment
of its own with PyTorch below target/peers.  Ends with code 1 where a mark is missed and with
code 2 where something could not be measured.
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
from dataclasses import asdict
from pathlib import Path
from statistics import median

import report
from children import ROOT, Children, Failed, Load, build_python, build_rust, clean_environment, some_cpus
from work import BF16_TOLERANCE, LUCIDRAINS, RUST_MUST, WORK, Contender

# Where the environment and the executables are made.
WORKSHOP = ROOT / "target/peers"

# Whoever the contender is, the driver's model that computes the same function, and who draws its weights.
TWINS = {"lucidrains_attention": "attention", "tatp22_attention": "attention",
         "exact_attention": "exact", "lucidrains_encoder": "encoder",
         "transformer_encoder": "exact_encoder"}
MAKERS = {"attention": "lucidrains_attention", "exact": "lucidrains_attention",
          "encoder": "lucidrains_encoder", "exact_encoder": "transformer_encoder"}

# Where single calls are too short to time by themselves: those that warm up in every turn, and the timed ones of all rounds together.
LATENCY_WARM, LATENCY_CALLS = 50, 2000
LATENCY_ROUNDS = 8
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
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile on small models")
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
        """The goals that can be tried here."""
        return [goal for goal in work.goals
                if self.children.available(goal.contender, work.threads)
                and (self.arguments.compile or not goal.contender.compile)]

    def make(self, work, twin, threads):
        """Files of weights and input for a model of the driver."""
        maker = MAKERS[twin]
        files = {kind: str(self.folder / f"{maker}.{kind}") for kind in ("weights", "input")}
        if not Path(files["weights"]).exists():
            self.children.of("installed", threads).ask(
                "make", model=maker, options=work.options(maker), shape=self.shape(work), seed=1, **files)
        return files

    @staticmethod
    def shape(work):
        return [work.batch, work.n, work.dim]

    def load(self, work, contender):
        """Loads a model in its process and returns what asks for it."""
        child = self.children.of(contender.process, work.threads)
        twin = contender.model if contender.process == "ours" else TWINS[contender.model]
        extra = {} if contender.process == "ours" else {"dtype": contender.dtype, "compile": contender.compile}
        # The driver and PyTorch take the same options, those of the package whose weights they are.
        child.ask("load", id=contender.name, model=contender.model, options=work.options(MAKERS[twin]),
                  shape=self.shape(work), **self.make(work, twin, work.threads), **extra)
        return child

    def check(self, work, contenders):
        """Compares every contender's output with that of the driver's model of the same function."""
        comparable = [contender for contender in contenders if contender.tolerance is not None]
        errors = {}
        for contender in comparable or [LUCIDRAINS]:
            twin = TWINS[contender.model]
            output = self.folder / f"{twin}.output"
            if not output.exists():
                ours = self.load(work, Contender("check", twin, "ours"))
                ours.ask("write", id="check", path=str(output))
                ours.ask("drop", id="check")
            child = self.load(work, contender)
            error = child.ask("check", id=contender.name, path=str(output))["error"]
            if not error <= contender.tolerance:
                raise Failed(f"the outputs differ: {contender.name} by {error:.1e}, at most {contender.tolerance:g} is allowed")
            errors[contender.name] = error
            if contender not in contenders:
                child.ask("drop", id=contender.name)
        return errors

    def measure(self, work):
        if work.n >= 16384 and any("Transformer" in goal.contender.name for goal in work.goals) and not has_memory(14 << 30):
            raise Failed("PyTorch stores all scores here and needs 14 GiB")
        goals = self.contenders(work)
        contenders = [goal.contender for goal in goals]
        errors = self.check(work, contenders)
        self.measure_peak(work)
        ours = Contender("ours", work.model, "ours")
        for contender in [ours, *(c for c in contenders if c.process == "ours")]:
            self.load(work, contender)
        load = Load(self.children.pids())
        try:
            rounds = self.rounds(work, [ours, *contenders])
            others = load.others()
        finally:
            for contender in [ours, *contenders]:
                self.children.of(contender.process, work.threads).ask("drop", id=contender.name)
        return self.result(work, goals, errors, rounds, others)

    def measure_peak(self, work):
        driver = self.children.of("ours", work.threads)
        peak = driver.ask("peak", threads=work.threads, seconds=0.3)["flops"]
        self.peaks[work.threads] = max(peak, self.peaks.get(work.threads, 0))
        if any(limit.figure == "share of GEMM speed" for limit in work.limits):
            speeds = {process: 2 * GEMM_SIZE**3 / self.children.of(process, work.threads).ask("gemm", size=GEMM_SIZE)["seconds"]
                      for process in ("ours", "installed", "best") if process != "best" or self.children.preload}
            self.gemms[work.threads] = speeds

    def turn(self, work, contender, warm, calls):
        time.sleep(self.arguments.pause)
        return self.children.of(contender.process, work.threads).ask("time", id=contender.name, warm=warm, calls=calls)

    def rounds(self, work, contenders):
        """Rounds in which each has one turn, in random order."""
        if work.latency:
            count = self.arguments.rounds or LATENCY_ROUNDS
            calls = math.ceil(LATENCY_CALLS / count) * (1 if self.arguments.quick else 2)
            plan = {contender.name: (LATENCY_WARM, calls) for contender in contenders}
        else:
            plan, count = self.plan(work, contenders)
        rounds = []
        for _ in range(count):
            order = self.random.sample(contenders, len(contenders))
            rounds.append({contender.name: self.turn(work, contender, *plan[contender.name]) for contender in order})
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

    def result(self, work, goals, errors, rounds, others):
        samples = {name: [median(entry[name]["seconds"]) for entry in rounds] for name in rounds[0]}
        result = {"name": work.name, "group": work.group, "work": describe(work), "median": median(samples["ours"]),
                  "rounds": len(rounds), "others": others, "errors": errors, "samples": samples,
                  "flops": work.flops(work.model), "threads": work.threads}
        result["contenders"] = [
            {"name": goal.contender.name, **report.compare(samples["ours"], samples[goal.contender.name], goal.must, goal.aim)}
            for goal in goals]
        if work.latency:
            result["latencies"] = {name: latencies(rounds, name) for name in samples}
            for entry in result["contenders"]:
                entry["p99"] = result["latencies"][entry["name"]]["p99"]
        elif work.batch >= 1024:
            result["rate"] = work.batch / result["median"]
        result["figures"] = [figure for limit in work.limits if (figure := self.figure(limit, result, rounds))]
        return result

    def figure(self, limit, result, rounds):
        """A figure of ours beside its limit; shares of the peak follow when the peak is known."""
        ours = result["samples"]["ours"]
        if limit.figure == "p50":
            values = [seconds * 1e6 for seconds in ours]
        elif limit.figure == "p99 / p50":
            values = [report.percentile(entry["ours"]["seconds"], 0.99) / median(entry["ours"]["seconds"]) for entry in rounds]
            pooled = result["latencies"]["ours"]
            return report.figure(limit.figure, values, limit.must, limit.at_least, pooled["p99"] / pooled["p50"])
        elif limit.figure == "share of GEMM speed":
            fastest = max(self.gemms[result["threads"]].values())
            values = [result["flops"] / seconds / fastest for seconds in ours]
        else:
            result["share_must"] = limit.must
            return None
        return report.figure(limit.figure, values, limit.must, limit.at_least)

    def add_shares(self, results):
        for result in results:
            if "samples" not in result or result["threads"] not in self.peaks or result["work"]["dim"] < 64:
                continue
            rates = [result["flops"] / seconds / self.peaks[result["threads"]] for seconds in result["samples"]["ours"]]
            if "share_must" in result:
                result["figures"].insert(0, report.figure("share of peak", rates, result["share_must"]))
            else:
                result["share"] = median(rates)


def describe(work):
    return {name: value for name, value in asdict(work).items() if name not in ("goals", "limits")}


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
    return [n for n in RUST_MUST if re.search(arguments.only, rust_name(n, threads))]


def rust_name(n, threads):
    return f"candle and burn n={n} {threads} thread{'s' * (threads > 1)}"


def measure_rust(arguments, threads):
    """candle and burn in a process with this crate: as released, then with gemm's x86-v4."""
    group = "candle and burn"
    sizes = rust_sizes(arguments, threads)
    for index, features in enumerate(((), ("x86-v4",))):
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
            must = RUST_MUST[answer["n"]][index] if threads > 1 else None
            contenders = [{"name": peer, **report.compare(ours, theirs, must)} for peer, theirs in answer["seconds"].items()]
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
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, machine = [], report.machine()
    if works:
        WORKSHOP.mkdir(parents=True, exist_ok=True)
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
    return 2 if any("failed" in result for result in results) or not results else 0


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
        found[f"PyTorch, {process}"] = ", ".join(versions + about["libraries"])
    if "installed" in run.children.about and not run.children.about["installed"]["bfloat16"]:
        found["bfloat16"] = "not measured: the processor has no instructions for it"
    return found


if __name__ == "__main__":
    sys.exit(main())
