"""What is measured, against whom, and what must come out: one table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """Who is measured against this crate."""
    name: str
    model: str            # as pytorch_worker.py knows it; the driver's, if it is this crate's own
    process: str = "installed"   # PyTorch as pip installs it, "best" (see run.py), or "ours"
    dtype: str = "float32"
    compile: bool = False
    tolerance: float | None = 1e-4   # of its output against ours; None: another function


# Differences over the root mean square of the output.  bfloat16 has three digits, and errors
# grow with n; the check only catches a wrong model there.
BF16_TOLERANCE = 0.5

LUCIDRAINS = Contender("lucidrains", "lucidrains_attention")
LUCIDRAINS_BEST = Contender("lucidrains, best", "lucidrains_attention", "best")
LUCIDRAINS_BF16 = Contender("lucidrains, bf16", "lucidrains_attention", dtype="bfloat16",
                            tolerance=BF16_TOLERANCE)
TATP22 = Contender("tatp22", "tatp22_attention")
SDPA = Contender("SDPA", "exact_attention")
SDPA_BEST = Contender("SDPA, best", "exact_attention", "best")
OWN_EXACT = Contender("our exact form", "exact", "ours", tolerance=None)
ENCODER = Contender("lucidrains", "lucidrains_encoder")
ENCODER_BEST = Contender("lucidrains, best", "lucidrains_encoder", "best")
ENCODER_COMPILED = Contender("lucidrains, compiled", "lucidrains_encoder", compile=True)
TRANSFORMER = Contender("TransformerEncoder", "transformer_encoder")
TRANSFORMER_BEST = Contender("TransformerEncoder, best", "transformer_encoder", "best")


@dataclass(frozen=True)
class Goal:
    """Their time over ours: what it must be at least, and what we are after."""
    contender: Contender
    must: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Limit:
    """A figure of ours and what it must be, at least or at most."""
    figure: str           # "share of peak", "p50" in microseconds, "p99 / p50"
    must: float
    at_least: bool = True


@dataclass(frozen=True)
class Work:
    group: str
    model: str            # the driver's
    n: int
    goals: tuple[Goal, ...]
    limits: tuple[Limit, ...] = ()
    batch: int = 1
    k: int = 128
    dim: int = 512
    heads: int = 8
    depth: int = 1
    threads: int = 2
    latency: bool = False  # many short calls: percentiles instead of medians
    quick: bool = True     # whether --quick has it

    @property
    def name(self):
        parts = [f"{self.group} n={self.n}"]
        parts += [f"k={self.k}"] if self.group == "attention" else []
        parts += [f"depth={self.depth}"] if "encoder" in self.model else []
        parts += [f"B={self.batch}", f"{self.threads} thread{'s' * (self.threads > 1)}"]
        return " ".join(parts)

    @property
    def encoder(self):
        return self.model == "encoder"

    def options(self, model):
        """The constructor's options of a model, by the peer's names."""
        if model in ("transformer_encoder", "exact_encoder"):
            return {"dim": self.dim, "heads": self.heads, "depth": self.depth, "ff_dim": 4 * self.dim}
        options = {"dim": self.dim, "seq_len": self.n, "k": self.k, "heads": self.heads}
        return options | ({"depth": self.depth} if self.encoder else {})

    def flops(self, model):
        """Two for each multiplication that the layer takes at least: keys and values are made of
        the k compressed rows, not of the n positions."""
        n, k, d = self.n, self.k, self.dim
        if model == "exact":
            return self.batch * n * (8 * d * d + 4 * n * d)
        attention = n * (4 * d * d + 8 * k * d) + 4 * k * d * d
        feed_forward = n * 4 * d * 4 * d if self.encoder else 0
        return self.batch * self.depth * (attention + feed_forward)


def layer_share(n):
    """The share of the machine's peak that an attention layer must reach."""
    return (Limit("share of peak", 0.65 if n < 2048 else 0.80),)


def encoder_share(n):
    return (Limit("share of peak", 0.65 if n < 2048 else 0.75),)


def attention():
    """The paper's layer: d 512, 8 heads."""
    installed = {512: 3.0, 4096: 3.75, 16384: None, 65536: 5.5}
    best = {512: (1.5, 1.6), 4096: (1.8, 2.0), 16384: (1.8, 2.0), 65536: (None, None)}
    for n in (512, 4096, 16384, 65536):
        goals = [Goal(LUCIDRAINS, installed[n]), Goal(LUCIDRAINS_BEST, *best[n]),
                 Goal(LUCIDRAINS_BF16, 1.0)]
        goals += [Goal(TATP22)] if n <= 4096 else []
        yield Work("attention", "attention", n, tuple(goals), layer_share(n))
    ahead = (Goal(LUCIDRAINS, 1.0), Goal(LUCIDRAINS_BEST, 1.0))
    for n in (512, 4096, 16384):
        yield Work("attention", "attention", n, ahead, layer_share(n), k=256, quick=n < 16384)
    for batch in (8, 32):
        for n in (512, 1024):
            quick = batch * n <= 8192
            yield Work("attention", "attention", n, ahead, batch=batch, quick=quick)
    for n in (512, 4096, 16384):
        yield Work("attention", "attention", n, ahead, layer_share(n), threads=1, quick=n < 16384)


def encoder():
    """Depth 4, feed-forward 2,048."""
    installed = {512: (1.9, 2.2), 4096: (2.6, 2.9), 16384: (3.3, 3.8)}
    best = {512: (1.0, 1.15), 4096: (1.2, 1.3), 16384: (1.2, 1.4)}
    for n in (512, 4096, 16384):
        goals = (Goal(ENCODER, *installed[n]), Goal(ENCODER_BEST, *best[n]))
        yield Work("encoder", "encoder", n, goals, encoder_share(n), depth=4)
    # Exact attention of another model: a row of its own, since it is long at 16,384.
    for n in (512, 4096, 16384):
        goals = [Goal(TRANSFORMER, *installed[n])]
        goals += [Goal(TRANSFORMER_BEST, *best[n])] if n <= 4096 else []
        yield Work("encoder, against exact", "encoder", n, tuple(goals), depth=4, quick=n < 16384)


def exact():
    """The baseline must be honest before a speed-up over it counts."""
    yield Work("exact attention", "exact", 4096, (Goal(SDPA, 1.0), Goal(SDPA_BEST)),
               (Limit("share of GEMM speed", 0.70),))
    # The paper's table 3 has 3.4, 8.6 and 20 at k 128.
    for n, paper, times in ((4096, 3.4, 2), (16384, 8.6, 3), (65536, 20, 5)):
        yield Work("Linformer over exact", "attention", n, (Goal(OWN_EXACT, paper * times),),
                   quick=n <= 16384)


def small():
    """Group B: what a small model on short sequences costs beside its arithmetic."""
    sizes = {"dim": 16, "heads": 4, "k": 4}
    for depth in (1, 3):
        for n in (8, 32, 64, 150):
            limits = [Limit("p99 / p50", 2.0, at_least=False)]
            if (n, depth) == (32, 1):
                limits.append(Limit("p50", 8.0, at_least=False))
            goals = (Goal(ENCODER, 10.0, 20.0 if n <= 32 else None), Goal(ENCODER_COMPILED, None, 5.0))
            yield Work("small", "encoder", n, goals, tuple(limits), depth=depth, threads=1,
                       latency=True, quick=depth == 1, **sizes)
    for depth in (1, 3):
        for n in (8, 32, 64, 150):
            goals = (Goal(ENCODER, 1.0), Goal(ENCODER_COMPILED))
            yield Work("small, batched", "encoder", n, goals, depth=depth, batch=4096,
                       quick=depth == 1, **sizes)


# By threads, since other processes serve other numbers of them.
WORK = sorted([*attention(), *encoder(), *exact(), *small()], key=lambda work: -work.threads)

# n: what must come out against candle and burn, as released and with gemm's x86-v4 switched on.
RUST_MUST = {512: (3.0, 2.0), 4096: (3.5, 2.0), 16384: (6.0, 4.0)}
