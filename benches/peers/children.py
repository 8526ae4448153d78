"""The processes that are measured: how they are made, started and asked."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

REQUIREMENTS = ["torch==2.15.0", "linformer==0.2.3", "linformer-pytorch==0.19.3",
                "numpy==2.4.6", "safetensors==0.8.0"]
# What models are exported with and run in; not to be had for every system.
ENGINES = ["onnx==1.23.2", "onnxscript==0.7.2", "onnxruntime==1.32.0", "openvino==2026.4.1"]

# Variables that would change what is measured.
DISTURBING = ("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES", "MKL_", "OMP_", "KMP_", "GOMP_",
              "RAYON_", "TORCH", "ATEN_", "DNNL_", "ONEDNN_", "OPENBLAS_", "ORT_", "OV_", "TBB_")

# MKL takes its AVX-512 code only where this function of its own says that the processor is Intel's.
PRELOAD = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"

# Without these glibc hands large blocks back to the system, and every operator faults its output in anew.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
          "MALLOC_TOP_PAD_": str(256 << 20)}


class Failed(Exception):
    """A child that answered with an error, or not at all."""


class Child:
    def __init__(self, name, command, environment, cpus):
        self.name = name
        pin = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, preexec_fn=pin)

    def ask(self, op, **arguments):
        try:
            print(json.dumps({"op": op, **arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"{self.name} ended with code {self.process.wait()} during `{op}`")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(f"{self.name}, {op}: {answer['failed']}")
        return answer

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended by itself
        self.process.wait()


class Children:
    """The processes for one number of threads at a time: the driver ("ours"), PyTorch as pip installs it ("installed"), at its best
    ("best"), compiled ("compiled") and where models are exported ("exporter"), "onnxruntime" and "openvino"."""

    def __init__(self, python, driver, target):
        self.python, self.driver, self.target = python, driver, target
        self.preload = build_preload(target)
        self.threads, self.running = None, {}
        self.about, self.broken = {}, {}

    def of(self, process, threads):
        if threads != self.threads:
            self.close()
            self.threads = threads
        if process in self.broken:
            raise Failed(self.broken[process])
        if process in self.running and self.running[process].process.poll() is not None:
            del self.running[process]
        if process not in self.running:
            self.running[process] = self.start(process, threads)
        return self.running[process]

    def start(self, process, threads):
        environment, cpus = clean_environment(threads), some_cpus(threads)
        if process == "ours":
            return Child("the driver", [str(self.driver)], environment, cpus)
        if process in ("best", "compiled"):
            environment |= MALLOC | ({"LD_PRELOAD": str(self.preload)} if self.preload else {})
        if process == "compiled":
            environment |= {"TORCHINDUCTOR_CACHE_DIR": str(self.target / "inductor"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        script = ["exported_worker.py", process] if process in ("onnxruntime", "openvino") else ["pytorch_worker.py"]
        child = Child(process, [str(self.python), str(HERE / script[0]), *script[1:]], environment, cpus)
        try:
            about = child.ask("about", threads=threads)
        except Failed as error:
            child.close()
            self.broken[process] = str(error)
            raise
        if process != "exporter":
            self.about[process] = about
        return child

    def available(self, contender, threads):
        """Whether this machine is one for which a contender is meant."""
        if contender.process == "best":
            return self.preload is not None
        self.of("installed", threads)
        return contender.dtype != "bfloat16" or self.about["installed"]["bfloat16"]

    def pids(self):
        return [child.process.pid for child in self.running.values()]

    def close(self):
        for child in self.running.values():
            child.close()
        self.running = {}


class Load:
    """What other processes, and other guests of the same machine, take from the measured ones."""

    def __init__(self, pids):
        self.pids = [os.getpid(), *pids]
        self.start = self.now()

    def now(self):
        """Seconds of the clock, and of all processors in other hands so far."""
        try:
            user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
            ticks = user + nice + system + irq + softirq + steal - sum(map(own_ticks, self.pids))
        except (OSError, ValueError):
            return time.monotonic(), 0.0
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK")

    def others(self):
        """Processors in other hands, on average."""
        (then, before), (now, after) = self.start, self.now()
        return max(0.0, (after - before) / (now - then))


def own_ticks(pid):
    """What a process and its children that have ended have run so far; its name, in brackets, may have spaces."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))


def clean_environment(threads):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(DISTURBING)}
    count = str(threads)
    return environment | {"RAYON_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}


def some_cpus(count):
    """As many processors as threads, on cores of their own where there are enough; None where
    the system cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    first_of_core = [cpu for cpu in allowed if siblings(cpu)[0] == cpu]
    chosen = first_of_core if len(first_of_core) >= count else allowed
    return set(chosen[:count])


def siblings(cpu):
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return [int(part) for part in path.read_text().replace("-", ",").split(",")]
    except (OSError, ValueError):
        return [cpu]


def run(command, **arguments):
    print("+", " ".join(map(str, command)), file=sys.stderr)
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr, **arguments)


def make_folder(path):
    """Makes a folder for results and ends the program where they could not be written, before anything is measured."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        sys.exit(f"results cannot be written to {path}: {error}")


def build_python(target, required=REQUIREMENTS, optional=ENGINES):
    """The interpreter of an environment with the pinned packages, made once."""
    folder = target / "venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "requirements.txt"
    wanted = "\n".join(required + optional) + "\n"
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, clear=True, with_pip=True)
        run([python, "-m", "pip", "install", "--quiet", *required])
        for package in optional:
            try:
                run([python, "-m", "pip", "install", "--quiet", package])
            except subprocess.CalledProcessError:
                print(f"{package} cannot be installed here and is not measured (remove {folder} to try again)", file=sys.stderr)
        stamp.write_text(wanted)
    return python


def build_rust(package, target, features=()):
    """The executable of one of the packages beside this file."""
    manifest = HERE / package / "Cargo.toml"
    folder = target / "-".join([package, *features])
    command = ["cargo", "build", "--release", "--locked", "--manifest-path", manifest, "--target-dir", folder]
    run(command + ([f"--features={','.join(features)}"] if features else []))
    name = f"linformer-peers-{package}" + (".exe" if os.name == "nt" else "")
    return folder / "release" / name


def build_preload(target):
    """The library that makes MKL take AVX-512; None where it cannot be made or preloaded."""
    compiler = shutil.which("cc")
    if not sys.platform.startswith("linux") or compiler is None:
        return None
    source, library = target / "intel_cpu.c", target / "intel_cpu.so"
    source.write_text(PRELOAD)
    run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source])
    return library
