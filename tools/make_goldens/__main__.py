#!/usr/bin/env python3
"""Write golden cases: small models of three PyTorch Linformer packages, and of BERT's family in
plain torch, run once in f64.

One JSON file a case: the package (`peer`), the constructor's options (`config`), every tensor
of the state dict, the inputs and the output, and for some the gradients.  See README.md
beside the files for what each one covers.

    python3 tools/make_goldens --out goldens                           lucidrains, tatp22, BERT
    python3 tools/make_goldens --out goldens --only bert               BERT alone
    python3 tools/make_goldens --out goldens --fairseq fairseq-0.12.2  and fairseq
    python3 tools/make_goldens --validate ../goldens [--fairseq ...]    re-run existing files

Versions the committed files were made with (Python 3.11):
    torch==2.15.0 numpy==2.4.6 linformer==0.2.3 linformer-pytorch==0.19.3 matplotlib==3.11.2
    fairseq==0.12.2, unpacked, not installed (pip download --no-deps --no-binary fairseq
    fairseq==0.12.2), which imports omegaconf==2.0.6 hydra-core==1.0.7 regex sacrebleu
    bitarray cffi tqdm

Weights, inputs and output gradients are multiples of 1/128, so that a test may store them as
f32 or f16 (weights also as bf16) without rounding; outputs have all digits.
"""

import argparse
import warnings

import torch

from bert_cases import bert_cases
from fairseq_cases import fairseq_cases
from fairseq_models import load_fairseq_package
from lucidrains_cases import lucid_cases
from tatp22_cases import tat_cases
from validation import validate
from writing import Goldens


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="goldens", help="folder to write into (default: goldens)")
    parser.add_argument("--fairseq", metavar="DIR", help="unpacked fairseq-0.12.2, for its cases")
    parser.add_argument("--only", metavar="TEXT", help="only cases with TEXT in their name")
    parser.add_argument("--validate", metavar="DIR", help="re-run the cases in DIR instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    peers = ["lucidrains", "tatp22", "bert"]
    if args.fairseq:
        load_fairseq_package(args.fairseq)
        peers.append("fairseq")
    if args.validate:
        validate(args.validate, peers)
        return
    goldens = Goldens(args.out, args.only)
    lucid_cases(goldens)
    tat_cases(goldens)
    bert_cases(goldens)
    if args.fairseq:
        fairseq_cases(goldens)
    if args.fairseq and not args.only:
        goldens.write_list()
    print(f"{len(goldens.made)} files in {args.out}")


if __name__ == "__main__":
    main()
