"""Trains the small tokenizers of tests/fixtures on words of ten scripts and the examples' text, and writes what ids Python gives them.

    python tools/make_tokenizers.py                        # trains anew, and writes tests/fixtures/*.json and ids.txt
    python tools/make_tokenizers.py --ids-of FOLDER        # prints the ids of the tokenizer.json in a folder, for the test on that model

Needs the package tokenizers (0.23.2). Training need not give the same tokenizer twice; the ids are those of the tokenizers beside them.
"""

import argparse
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CRATE = Path(__file__).parent.parent
FIXTURES = CRATE / "tests/fixtures"
COUNT = 600
MASK = (1 << 64) - 1


class Random:
    """The same numbers as tests/support/texts.rs draws."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return (self.state >> 33) % bound

    def choose(self, items):
        return items[self.below(len(items))]


def word(random, scripts, own):
    kind = random.below(20)
    script = scripts["scripts"][own]
    if kind == 0:
        characters = []
        for _ in range(1 + random.below(6)):
            first, last = random.choose(script["ranges"])
            characters.append(chr(first + random.below(last - first + 1)))
        return "".join(characters)
    if kind == 1:
        return random.choose(scripts["emoji"])
    if kind == 2:
        return random.choose(script["words"]) + chr(random.choose(scripts["marks"]))
    if kind == 3:
        return random.choose(scripts["literals"])
    if kind == 4:
        return random.choose(random.choose(scripts["scripts"])["words"])
    if kind == 5:
        return random.choose(scripts["extras"])
    return random.choose(script["words"])


def texts():
    scripts = json.loads((FIXTURES / "scripts.json").read_text(encoding="utf-8"))
    random = Random(2026)
    made = ["", " \t\n"]
    for index in range(2, COUNT):
        parts = []
        for _ in range(1 + random.below(14)):
            parts.append(word(random, scripts, index % len(scripts["scripts"])))
            parts.append(random.choose(scripts["spaces"]))
        made.append("".join(parts))
    return made


def digest(numbers):
    """FNV-1a of numbers of four bytes."""
    value = 0xCBF29CE484222325
    for number in numbers:
        for byte in number.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x100000001B3) & MASK
    return f"{value & 0xFFFFFFFF:08x}"


def of_single(tokenizer, text):
    """Ids, types, and the bytes of tokens that are not special."""
    encoding = tokenizer.encode(text)
    places = [0]
    for character in text:
        places.append(places[-1] + len(character.encode("utf-8")))
    numbers = [*encoding.ids, *encoding.type_ids]
    for (start, end), special in zip(encoding.offsets, encoding.special_tokens_mask):
        if not special:
            numbers += [places[start], places[end]]
    return digest(numbers)


def of_pair(tokenizer, first, second):
    encoding = tokenizer.encode(first, second)
    return digest([*encoding.ids, *encoding.type_ids])


def lines(tokenizers):
    """A line for each text: a digest of the text, and for each tokenizer those of its tokens, alone and paired with the next text."""
    for tokenizer in tokenizers:
        tokenizer.no_truncation()
        tokenizer.no_padding()
    made = texts()
    for index, text in enumerate(made):
        columns = [digest(text.encode("utf-8"))]
        for tokenizer in tokenizers:
            columns += [of_single(tokenizer, text), of_pair(tokenizer, text, made[(index + 1) % len(made)])]
        yield " ".join(columns)


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1200, special_tokens=special)
    return tokenizer, trainer, lambda: processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer, trainer, lambda: processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=900, special_tokens=special, unk_token="<unk>")
    template = dict(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer, trainer, lambda: processors.TemplateProcessing(**template)


def train(name, made):
    tokenizer, trainer, processor = made
    novel = (CRATE / "../../examples/data/moby_dick.txt").read_text(encoding="utf-8").split("\n\n")
    scripts = json.loads((FIXTURES / "scripts.json").read_text(encoding="utf-8"))["scripts"]
    # Not the generated texts: characters at random would be most of the vocabulary.
    words = [" ".join(script["words"]) for script in scripts for _ in range(20)]
    tokenizer.train_from_iterator([*words, *novel[:400]], trainer)
    tokenizer.post_processor = processor()
    # What must not be done silently is in the file.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    (FIXTURES / f"{name}.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids-of", type=Path)
    folder = parser.parse_args().ids_of
    if folder:
        print("\n".join(lines([Tokenizer.from_file(str(folder / "tokenizer.json"))])))
        return
    trained = [train("word_piece", word_piece()), train("byte_level", byte_level()), train("unigram", unigram())]
    (FIXTURES / "ids.txt").write_text("\n".join(lines(trained)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
