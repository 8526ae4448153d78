"""Medians, ratios with their noise, verdicts, and the tables."""

import platform
import random
import subprocess
from statistics import median

RESAMPLES = 1000
# Processors in other hands that are worth a remark.
BUSY = 0.05


def percentile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def interval(values):
    """Where 95 % of the medians of resamples of `values` lie: the run's own noise."""
    draw = random.Random(0)
    medians = [median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return percentile(medians, 0.025), percentile(medians, 0.975)


def verdict(value, low, high, must, at_least=True):
    if must is None:
        return ""
    if not at_least:
        value, low, high, must = -value, -high, -low, -must
    if value >= must:
        return "met"
    return "tie" if high >= must else "MISSED"


def compare(ours, theirs, must=None):
    """The ratio of medians of two lists of seconds, paired by round, with its noise."""
    ratio = median(theirs) / median(ours)
    low, high = interval([b / a for a, b in zip(ours, theirs)])
    return {"median": median(theirs), "ratio": ratio, "low": low, "high": high, "must": must,
            "verdict": verdict(ratio, low, high, must)}


def fastest(ours, rivals, must):
    """The comparison with the one of several lists of seconds, by name, whose median is the least."""
    name = min(rivals, key=lambda name: median(rivals[name]))
    return {"name": name, **compare(ours, rivals[name], must)}


def quotient(name, above, below, must, at_least=True):
    """The ratio of the medians of two lists, paired by round, as a figure with its noise."""
    low, high = interval([a / b for a, b in zip(above, below)])
    value = median(above) / median(below)
    return {"figure": name, "value": value, "low": low, "high": high, "must": must,
            "at_least": at_least, "verdict": verdict(value, low, high, must, at_least)}


def verdicts(results):
    for result in results:
        fastest = [result["fastest"]] if "fastest" in result else []
        for entry in [*fastest, *result.get("contenders", []), *result.get("figures", [])]:
            yield result["name"], entry


def is_busy(result):
    return result.get("others", 0.0) > BUSY


def duration(seconds):
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def wanted(entry, sign="≥"):
    return "" if entry["must"] is None else f", must {sign} {entry['must']:.3g}: **{entry['verdict']}**"


def ratio(entry):
    return f"{entry['ratio']:.2f}× ({entry['low']:.2f}–{entry['high']:.2f}{wanted(entry)})"


def ratio_cell(entry):
    p99 = f" (p99 {duration(entry['p99'])})" if "p99" in entry else ""
    idle = f"; idle / loop {entry['idle']:.2f}" if "idle" in entry else ""
    return f"{duration(entry['median'])}{p99}, {ratio(entry)}{idle}"


def figure_cell(entry):
    sign = "≥" if entry["at_least"] else "≤"
    return f"{entry['figure']} {entry['value']:.2f} ({entry['low']:.2f}–{entry['high']:.2f}{wanted(entry, sign)})"


def our_cell(result):
    parts = [duration(result["median"])]
    if "latencies" in result:
        ours = result["latencies"]["ours"]
        parts.append(f"p99 {duration(ours['p99'])} of {ours['calls']} calls")
    if "share" in result:
        parts.append(f"{result['share']:.0%} of peak")
    if "rate" in result:
        parts.append(f"{result['rate']:.3g} sequences/s")
    if "loops" in result:
        parts.append(f"in a loop {duration(median(result['loops']['ours']))}")
    return "; ".join(parts + [figure_cell(entry) for entry in result.get("figures", [])])


def peer_cells(result, columns):
    cells = {entry["name"]: ratio_cell(entry) for entry in result["contenders"]}
    cells |= {name: "not measured" for name in result.get("absent", {})}
    fastest = result.get("fastest")
    return [f"{fastest['name']} {ratio(fastest)}" if fastest else "–", *(cells.get(name, "–") for name in columns)]


def one_line(text):
    """The first line of a message, short enough for a table."""
    line = (text.strip().splitlines() or [""])[0].replace("|", "/")
    return line if len(line) <= 200 else line[:199] + "…"


def table(group, results):
    """One table a group: a row for each piece of work, a column for the fastest rival and one for each contender."""
    columns = []
    for result in results:
        names = [*(entry["name"] for entry in result.get("contenders", [])), *result.get("absent", {})]
        columns += [name for name in names if name not in columns]
    lines = [f"### {group}", "",
             "| " + " | ".join(["work", "ours", "fastest rival", *columns, "rounds"]) + " |",
             "|---" * (len(columns) + 4) + "|"]
    reasons = {}
    for result in results:
        if "failed" in result:
            lines.append(f"| {result['name']} | not measured: {one_line(result['failed'])} |" + " |" * (len(columns) + 2))
            continue
        rounds = f"{result['rounds']}" + (", **busy**" if is_busy(result) else "")
        lines.append("| " + " | ".join([result["name"], our_cell(result), *peer_cells(result, columns), rounds]) + " |")
        for name, reason in result.get("absent", {}).items():
            reasons.setdefault((name, one_line(reason)), []).append(result["name"])
    lines.append("")
    for (name, reason), works in reasons.items():
        lines += [f"* {name} was not measured for {'; '.join(works)}: {reason}"]
    return lines + [""] * bool(reasons)


EXPLANATION = """\
Times are medians. A ratio is their time over ours, in brackets the 95 % interval of the median of
the ratios round by round; a "tie" misses its mark by less than that noise. The fastest rival is the one
of least median in the same rounds among PyTorch at its best, torch.compile, ONNX Runtime and OpenVINO, all in f32
(for exact attention PyTorch as installed, too). "best", and torch.compile, have
PyTorch's MKL made to take AVX-512 on any processor and malloc kept from returning memory: as
installed it is handicapped on AMD. Models go over to ONNX Runtime and OpenVINO by torch.onnx.export. Shares of peak count 4d² + 8kd
a token and 4kd² a sequence (and 4·d·ff a token for a feed-forward, 8d² + 4nd for exact attention, 8d² + 4·160·d for local-global), over the rate of multiply-adds
measured in the same run. After idling: calls after 50 ms of sleep each, "idle / loop" over calls in a loop. "busy": other
processes took more than a twentieth of a processor meanwhile.
"""


def markdown(document):
    lines = ["# Speed against peers", ""]
    lines += [f"* {name}: {value}" for name, value in document["machine"].items()]
    lines += ["", EXPLANATION]
    groups = {}
    for result in document["results"]:
        groups.setdefault(result["group"], []).append(result)
    for group, results in groups.items():
        lines += table(group, results)
    counts = {}
    for _, entry in verdicts(document["results"]):
        counts[entry["verdict"]] = counts.get(entry["verdict"], 0) + 1
    failed = sum("failed" in result for result in document["results"])
    absent = sum(bool(result.get("absent")) for result in document["results"])
    busy = sum(map(is_busy, document["results"]))
    lines.append(f"{counts.get('met', 0)} marks met, {counts.get('tie', 0)} ties, "
                 f"{counts.get('MISSED', 0)} missed; {failed} rows not measured, {absent} without a rival, {busy} on a busy machine.")
    return "\n".join(lines) + "\n"


def machine():
    found = {"processor": processor(), "system": f"{platform.system()} {platform.release()}"}
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True)
    found["compiler"] = rustc.stdout.strip()
    return found


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{len(names)} × {names[0]}"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
