"""What is measured, against whom, and what must come out: one table.

The figure that counts is the time of the fastest rival over ours: PyTorch at its best, compiled, or exported to ONNX Runtime or
OpenVINO.  It must be at least `must`, where there is such a mark."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Contender:
    """Who is measured against this crate."""
    name: str
    model: str            # as pytorch_worker.py knows it; the driver's, if it is this crate's own
    process: str          # see Children
    counts: bool = True   # whether it can be the fastest rival
    dtype: str = "float32"
    compile: bool = False
    tolerance: float | None = 1e-4   # of its output against ours; None: another function
    must: float | None = None        # its time over ours, whoever is the fastest


# Differences over the root mean square of the output.  bfloat16 has three digits, and errors
# grow with n; the check only catches a wrong model there.
BF16_TOLERANCE = 0.5

INSTALLED, BEST, COMPILED = "as installed", "PyTorch, best", "torch.compile"

LUCIDRAINS_BF16 = Contender("bf16", "lucidrains_attention", "installed", counts=False, dtype="bfloat16", tolerance=BF16_TOLERANCE)
TATP22 = Contender("tatp22", "tatp22_attention", "installed", counts=False)
OWN_EXACT = Contender("our exact form", "exact", "ours", counts=False, tolerance=None)
OWN_LINFORMER = Contender("our Linformer", "attention", "ours", counts=False, tolerance=None)


def installed(model):
    return Contender(INSTALLED, model, "installed", counts=False)


def rivals(model):
    """A PyTorch model in every form in which users run it."""
    return (installed(model), Contender(BEST, model, "best"), Contender(COMPILED, model, "compiled", compile=True),
            Contender("ONNX Runtime", model, "onnxruntime"), Contender("OpenVINO", model, "openvino"))


@dataclass(frozen=True)
class Work:
    group: str
    model: str            # the driver's
    n: int
    contenders: tuple[Contender, ...]
    must: float | None = None   # the fastest rival's time over ours, at least
    batch: int = 1
    k: int = 128
    dim: int = 512
    heads: int = 8
    depth: int = 1
    threads: int = 2
    seq_len: int | None = None   # the longest sequence of a Linformer, where it is not n
    post_norm: bool = False      # of exact encoders
    latency: bool = False  # many short calls: percentiles instead of medians
    idle: float = 0.0      # seconds of sleep before every call; the same calls are measured in a loop, too
    must_idle: float | None = None  # our time after idling over that in a loop, at most
    quick: bool = True     # whether --quick has it

    @property
    def name(self):
        parts = [f"{self.group} n={self.n}"]
        if self.group in ("attention", "sentences"):
            parts.append("exact" if "exact" in self.model else f"k={self.k}")
        parts += [f"depth={self.depth}"] if "encoder" in self.model else []
        parts += [f"B={self.batch}", f"{self.threads} thread{'s' * (self.threads > 1)}"]
        return " ".join(parts)

    def options(self, model):
        """The constructor's options of a model, by the peer's names."""
        if model in ("transformer_encoder", "exact_encoder"):
            return {"dim": self.dim, "heads": self.heads, "depth": self.depth, "ff_dim": 4 * self.dim, "post_norm": self.post_norm}
        options = {"dim": self.dim, "seq_len": self.seq_len or self.n, "k": self.k, "heads": self.heads}
        return options | ({"depth": self.depth} if self.model == "encoder" else {})

    def flops(self):
        """Two for each multiplication that the layer takes at least: keys and values are made of
        the k compressed rows, not of the n positions."""
        n, k, d = self.n, self.k, self.dim
        if "exact" in self.model:
            attention = n * (8 * d * d + 4 * n * d)
        elif self.model == "local_global":
            attention = n * (8 * d * d + 4 * LOCAL_GLOBAL_KEYS * d)
        else:
            attention = n * (4 * d * d + 8 * k * d) + 4 * k * d * d
        feed_forward = n * 4 * d * 4 * d if "encoder" in self.model else 0
        return self.batch * self.depth * (attention + feed_forward)


# The keys that a row of the driver's local-global attention sees: three blocks of 32, and 64 slots.
LOCAL_GLOBAL_KEYS = 3 * 32 + 64

ATTENTION = {512: 1.35, 1024: 1.45, 4096: 1.6, 16384: 1.6, 65536: 1.6}


def attention():
    """The paper's layer: d 512, 8 heads."""
    peers = rivals("lucidrains_attention")
    for n, must in ATTENTION.items():
        extra = (LUCIDRAINS_BF16,) + ((TATP22,) if n == 512 else ())
        yield Work("attention", "attention", n, peers + extra, must, quick=n < 65536)
    for n in (512, 4096, 16384):
        yield Work("attention", "attention", n, peers, 1.0, k=256, quick=False)
    for batch in (8, 32):
        for n in (512, 1024):
            yield Work("attention", "attention", n, peers, 1.0, batch=batch, quick=False)
    for n in (512, 4096, 16384):
        yield Work("attention", "attention", n, peers, 1.0, threads=1, quick=n == 512)


def idle():
    """One call after 50 ms of sleep, as a server has them, beside calls in a loop."""
    for n in (512, 1024, 4096):
        yield Work("after idling", "attention", n, rivals("lucidrains_attention"), idle=0.05, must_idle=1.2)


def encoder():
    """Depth 4, feed-forward 2,048."""
    for n, must in ((128, 1.05), (512, 1.2), (4096, 1.25), (16384, 1.25)):
        yield Work("encoder", "encoder", n, rivals("lucidrains_encoder"), must, depth=4, quick=n < 16384)
    # Exact attention of another model: a row of its own, since it is long at 16,384.
    for n in (512, 4096, 16384):
        peers = rivals("transformer_encoder") if n <= 4096 else (installed("transformer_encoder"),)
        yield Work("encoder, against exact", "encoder", n, peers, depth=4, quick=False)


def exact():
    """The baseline must be honest before a speed-up over it counts: any form of `scaled_dot_product_attention` does."""
    peers = tuple(replace(peer, counts=True) for peer in rivals("exact_attention"))
    yield Work("exact attention", "exact", 4096, peers, 1.05)
    for n in (4096, 16384, 65536):
        yield Work("Linformer over exact", "attention", n, (installed("lucidrains_attention"), OWN_EXACT), quick=n == 4096)


def local_global():
    """Against this crate's own exact form, and its Linformer attention of k = 128: by count 4.3 and 14 times, and 1.54 of its time."""
    for threads in (2, 1):
        for n, must in ((4096, 3.5), (16384, 12.0)):
            peers = (replace(OWN_EXACT, must=must), replace(OWN_LINFORMER, must=1 / 1.65))
            yield Work("local-global", "local_global", n, peers, threads=threads, quick=n == 4096)


def sentences():
    """MiniLM's shape, at which most text is encoded: exact, and Linformer encoders for up to 512 positions."""
    sizes = {"dim": 384, "heads": 12, "depth": 6}
    for threads in (2, 1):
        for batch, lengths in ((1, (16, 64, 128, 512)), (16, (64, 128))):
            for n in lengths:
                quick = batch == 1 and n < 512
                yield Work("sentences", "exact_encoder", n, rivals("transformer_encoder"), 1.05, batch=batch, threads=threads,
                           post_norm=True, quick=quick and (threads > 1 or n < 128), **sizes)
                for k in (32, 128):
                    yield Work("sentences", "encoder", n, rivals("lucidrains_encoder"), 1.05, batch=batch, threads=threads,
                               k=k, seq_len=512, quick=quick and threads > 1, **sizes)


def small():
    """What a small model on short sequences costs beside its arithmetic."""
    sizes = {"dim": 16, "heads": 4, "k": 4}
    peers = rivals("lucidrains_encoder")
    batched = tuple(replace(peer, must=1.0) if peer.compile else peer for peer in peers)
    for depth in (1, 3):
        for n in (8, 32, 64, 150):
            quick = depth == 1 and n in (8, 64)
            yield Work("small", "encoder", n, peers, 1.0, depth=depth, threads=1, latency=True, quick=quick, **sizes)
            yield Work("small, batched", "encoder", n, batched, depth=depth, batch=4096, quick=quick, **sizes)


# By threads, since other processes serve other numbers of them.
WORK = sorted([*attention(), *idle(), *encoder(), *exact(), *local_global(), *sentences(), *small()], key=lambda work: -work.threads)

# The lengths at which a layer is measured beside candle's and burn's, as released and with gemm's x86-v4 switched on.
RUST_SIZES = (512, 4096, 16384)
