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


def compare(ours, theirs, must=None, aim=None):
    """The ratio of medians of two lists of seconds, paired by round, with its noise."""
    ratio = median(theirs) / median(ours)
    low, high = interval([b / a for a, b in zip(ours, theirs)])
    return {"median": median(theirs), "ratio": ratio, "low": low, "high": high, "must": must,
            "aim": aim, "verdict": verdict(ratio, low, high, must)}


def figure(name, values, must, at_least=True, value=None):
    """A figure, the median of `values` unless it is given, with its noise."""
    low, high = interval(values)
    value = median(values) if value is None else value
    return {"figure": name, "value": value, "low": low, "high": high, "must": must,
            "at_least": at_least, "verdict": verdict(value, low, high, must, at_least)}


def verdicts(results):
    for result in results:
        for entry in [*result.get("contenders", []), *result.get("figures", [])]:
            yield result["name"], entry


def is_busy(result):
    return result.get("others", 0.0) > BUSY


def duration(seconds):
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def wanted(entry, sign="≥"):
    if entry["must"] is None and entry.get("aim") is None:
        return ""
    if entry["must"] is None:
        return f", aim {entry['aim']:g}"
    text = f", must {sign} {entry['must']:.3g}: **{entry['verdict']}**"
    if entry.get("aim") is not None:
        reached = "reached" if entry["ratio"] >= entry["aim"] else "not reached"
        text += f", aim {entry['aim']:g} {reached}"
    return text


def ratio_cell(entry):
    p99 = f" (p99 {duration(entry['p99'])})" if "p99" in entry else ""
    return (f"{duration(entry['median'])}{p99}, {entry['ratio']:.2f}× "
            f"({entry['low']:.2f}–{entry['high']:.2f}{wanted(entry)})")


def figure_cell(entry):
    share = entry["figure"].startswith("share")
    number = (lambda value: f"{value:.0%}") if share else (lambda value: f"{value:.3g}")
    sign = "≥" if entry["at_least"] else "≤"
    must = number(entry["must"])
    return f"{entry['figure']} {number(entry['value'])} (must {sign} {must}: **{entry['verdict']}**)"


def table(group, results):
    """One table a group: a row for each piece of work, a column for each contender."""
    columns = []
    for result in results:
        columns += [entry["name"] for entry in result.get("contenders", []) if entry["name"] not in columns]
    lines = [f"### {group}", "",
             "| work | ours | " + " | ".join(columns) + " | rounds |",
             "|---" * (len(columns) + 3) + "|"]
    for result in results:
        if "failed" in result:
            lines.append(f"| {result['name']} | not measured: {result['failed']} |" + " |" * (len(columns) + 1))
            continue
        ours = [duration(result["median"])]
        if "latencies" in result:
            ours.append(f"p99 {duration(result['latencies']['ours']['p99'])} of {result['latencies']['ours']['calls']} calls")
        if result.get("share") is not None:
            ours.append(f"{result['share']:.0%} of peak")
        if result.get("rate") is not None:
            ours.append(f"{result['rate']:.3g} sequences/s")
        ours += [figure_cell(entry) for entry in result.get("figures", [])]
        cells = {entry["name"]: ratio_cell(entry) for entry in result["contenders"]}
        rounds = f"{result['rounds']}" + (", **busy**" if is_busy(result) else "")
        row = [result["name"], "; ".join(ours), *(cells.get(name, "–") for name in columns), rounds]
        lines.append("| " + " | ".join(row) + " |")
    return lines + [""]


EXPLANATION = """\
Times are medians. A ratio is their time over ours, in brackets the 95 % interval of the median of
the ratios round by round; a "tie" misses its mark by less than that noise. "best" is PyTorch with
its MKL made to take AVX-512 on any processor and with malloc kept from returning memory: as
installed it is handicapped on AMD. Shares of peak count 4d² + 8kd a token and 4kd² a sequence (and
4·d·ff a token for a feed-forward, 8d² + 4nd for exact attention), over the rate of multiply-adds
measured in the same run. "busy": other processes took more than a twentieth of a processor
meanwhile.
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
    busy = sum(map(is_busy, document["results"]))
    lines.append(f"{counts.get('met', 0)} marks met, {counts.get('tie', 0)} ties, "
                 f"{counts.get('MISSED', 0)} missed; {failed} rows not measured, {busy} on a busy machine.")
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
