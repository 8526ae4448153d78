#!/usr/bin/env python3
"""Classifies whole documents by logistic regression on their vectors, in five folds: the first tokens only, the mean of chunks, one reading
in local-global form; TF-IDF beside them.

    python3 benches/peers/documents.py --model FOLDER --converted FILE --documents FOLDER --label '(?:^|/)c([a-r])'

A document's class is the first group of --label in its file's path below --documents.  --tagged takes the part-of-speech tags of the Brown
corpus off, --mail the headers of mails.
Seconds and memory are those of embedding, in a process of its own for each form, on --threads threads.  Needs what text.py needs.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from children import Child, build_python, build_rust, clean_environment, some_cpus
from text import WORKSHOP

PACKAGES = ["numpy==2.4.6", "scikit-learn==1.9.1"]
SEED, FOLDS = 1, 5


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of a model")
    parser.add_argument("--converted", type=Path, action="append", default=[], help="the same model in local-global form; may come again")
    parser.add_argument("--documents", type=Path, required=True, help="a folder of text files")
    parser.add_argument("--label", required=True, help="a regular expression whose first group is the class")
    parser.add_argument("--every", type=int, default=1, help="take every so many documents only")
    parser.add_argument("--tagged", action="store_true", help="words are followed by / and a tag")
    parser.add_argument("--mail", action="store_true", help="what comes before the first empty line is left out")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def read(arguments):
    """Texts and their classes."""
    texts, classes = [], []
    for path in sorted(arguments.documents.rglob("*"))[::arguments.every]:
        label = path.is_file() and re.search(arguments.label, path.relative_to(arguments.documents).as_posix())
        if label:
            text = path.read_text(errors="replace")
            text = untagged(text) if arguments.tagged else text
            texts.append(body(text) if arguments.mail else text)
            classes.append(label.group(1))
    if len(set(classes)) < 2:
        sys.exit(f"{len(texts)} documents of the classes {sorted(set(classes))}; at least two are needed")
    return texts, classes


def body(mail):
    return mail.partition("\n\n")[2] or mail


def untagged(text):
    words = " ".join(word.rpartition("/")[0] or word for word in text.split())
    return re.sub(r" ([.,;:?!])", r"\1", words).replace("`` ", '"').replace(" ''", '"')


def embed(driver, model, long, texts, threads, folder):
    """Vectors of all texts, and the seconds and bytes that they took."""
    child = Child(long, [str(driver)], clean_environment(threads), some_cpus(threads))
    child.ask("open", model=str(model))
    child.ask("load", id="all", texts=str(texts), long=long)
    path = folder / "vectors"
    seconds = child.ask("write", id="all", path=str(path))["seconds"]
    memory = child.ask("memory")["bytes"]
    child.close()
    return path, seconds, memory


def accuracies(features, classes, regularization):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    return cross_val_score(LogisticRegression(C=regularization, max_iter=2000), features, classes, cv=folds)


def row(name, found, cost=""):
    error = found.std(ddof=1) / len(found) ** 0.5
    print(f"| {name} | {found.mean():.3f} ± {error:.3f} |{cost or ' | |'}", flush=True)


def classify(arguments, driver):
    import numpy
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, classes = read(arguments)
    print(f"{len(texts)} documents, classes {dict(sorted(Counter(classes).items()))}\n")
    print("| vectors | accuracy | seconds | memory |\n|---|---:|---:|---:|", flush=True)
    row("TF-IDF", accuracies(TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts), classes, 10.0))
    forms = [("the first tokens that fit", arguments.model, "cut"), ("chunks, averaged", arguments.model, "chunks")]
    forms += [(f"one reading, {path.name}", path, "one_pass") for path in arguments.converted]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "texts.json").write_text(json.dumps(texts))
        for name, model, long in forms:
            path, seconds, memory = embed(driver, model, long, folder / "texts.json", arguments.threads, folder)
            vectors = numpy.fromfile(path, "<f4").reshape(len(texts), -1)
            vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
            row(name, accuracies(vectors, classes, 10.0), f" {seconds:.1f} | {memory / 2**20:.0f} MiB |")


def main():
    arguments = parse_arguments()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        python = build_python(WORKSHOP / "documents", PACKAGES, [])
        os.execv(python, [str(python), __file__, *sys.argv[1:]])
    classify(arguments, build_rust("text", WORKSHOP))


if __name__ == "__main__":
    main()
