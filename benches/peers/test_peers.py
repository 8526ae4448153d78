"""Tests of what the measuring scripts make of their figures:

    python3 -m unittest discover benches/peers
"""

import os
import subprocess
import sys
import tempfile
import unittest
from array import array
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import children
import documents
import report
import run
import text
from work import BEST, COMPILED, INSTALLED, WORK, rivals

HERE = Path(__file__).parent


class Fastest(unittest.TestCase):
    def test_the_one_of_least_median_counts(self):
        fastest = report.fastest([1.0, 1.0, 1.0], {"a": [2.0, 2.0, 2.0], "b": [9.0, 1.5, 1.4]}, 1.6)
        self.assertEqual((fastest["name"], fastest["ratio"]), ("b", 1.5))

    def test_a_mark_is_met_tied_or_missed(self):
        for theirs, verdict in (([1.2] * 3, "met"), ([1.0, 1.04, 1.3], "tie"), ([1.0] * 3, "MISSED")):
            self.assertEqual(report.fastest([1.0] * 3, {"a": theirs}, 1.05)["verdict"], verdict)

    def test_a_figure_that_must_be_small(self):
        for above, verdict in (([1.1] * 3, "met"), ([1.1, 1.3, 1.4], "tie"), ([1.3] * 3, "MISSED")):
            self.assertEqual(report.quotient("idle / loop", above, [1.0] * 3, 1.2, at_least=False)["verdict"], verdict)


class Absent(unittest.TestCase):
    """Who cannot be measured is named, and loses nobody else's row."""

    def checked(self, broken, best=True):
        """What `Run.check` makes of a piece of work where some processes fail."""
        work = next(work for work in WORK if work.group == "encoder")
        runs = run.Run(SimpleNamespace(quick=True), SimpleNamespace(available=lambda contender, _: best or contender.process != "best"))

        def error(_, contender):
            if contender.process in broken:
                raise children.Failed(f"no {contender.process}\nat line 2 | 3")
            return 0.0

        runs.error = error
        with redirect_stderr(StringIO()):
            return work, runs.contenders(work), runs.check(work, runs.contenders(work))

    def test_each_rival_alone(self):
        for name, process in ((BEST, "best"), (COMPILED, "compiled"), ("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")):
            work, contenders, (errors, absent) = self.checked({process})
            self.assertEqual(set(absent), {name})
            self.assertEqual(set(errors), {contender.name for contender in contenders} - {name})
            samples = {"ours": [1.0, 1.0]} | {other: [2.0, 2.0] for other in errors}
            rounds = [{key: {"seconds": [values[i]]} for key, values in samples.items()} for i in range(2)]
            left = [contender for contender in contenders if contender.name in errors]
            result = run.Run(SimpleNamespace(quick=True), None).result(work, left, {"absent": absent, "errors": errors, "others": 0}, rounds)
            text = report.markdown({"machine": {}, "results": [result]})
            self.assertIn(f"* {name} was not measured for {work.name}: no {process}\n", text)
            row = next(line for line in text.splitlines() if line.startswith(f"| {work.name}"))
            header = next(line for line in text.splitlines() if line.startswith("| work"))
            self.assertEqual(row.count("|"), header.count("|"))
            self.assertIn("not measured", row)

    def test_nobody_left_is_a_row_that_failed(self):
        for broken in ({"installed"}, {"best", "compiled", "onnxruntime", "openvino"}):
            with self.assertRaises(children.Failed):
                self.checked(broken)

    def test_as_installed_counts_only_where_there_is_no_better(self):
        for best in (True, False):
            _, contenders, _ = self.checked(set(), best)
            installed = next(contender for contender in contenders if contender.name == INSTALLED)
            self.assertEqual(installed.counts, not best)


class Folders(unittest.TestCase):
    """Where results cannot be written is found before anything is built or measured."""

    def test_missing_folders_are_made(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a" / "b"
            children.make_folder(path)
            children.make_folder(path)
            self.assertEqual(list(path.iterdir()), [])

    def test_both_scripts_make_the_folder_first_or_end(self):
        for script in ("run.py", "training.py"):
            with self.subTest(script), tempfile.TemporaryDirectory() as folder:
                # An interpreter that is none ends the script just after.
                missing, none = Path(folder) / "a" / "b", Path(folder) / "none"
                environment = os.environ | {"PATH": folder}
                start = lambda out: subprocess.run([sys.executable, HERE / script, "--quick", "--python", none, "--out", out],
                                                   env=environment, capture_output=True, text=True)
                start(missing)
                self.assertTrue(missing.is_dir())
                file = Path(folder) / "file"
                file.write_text("")
                for out in (file, file / "below"):
                    ended = start(out)
                    self.assertEqual(ended.returncode, 1)
                    self.assertIn("results cannot be written to", ended.stderr)
                    self.assertNotIn("Traceback", ended.stderr)


class Table(unittest.TestCase):
    def test_names_are_unique(self):
        names = [work.name for work in WORK]
        self.assertEqual(len(names), len(set(names)))
        for work in WORK:
            contenders = [contender.name for contender in work.contenders]
            self.assertEqual(len(contenders), len(set(contenders)), work.name)

    def test_a_mark_has_someone_to_be_measured_against(self):
        for work in WORK:
            if work.must is not None:
                self.assertTrue(set(contender.name for contender in rivals("")) - {INSTALLED}
                                <= {contender.name for contender in work.contenders if contender.counts}, work.name)


class Texts(unittest.TestCase):
    """text.py and documents.py, with processes that only pretend."""

    def measured(self, theirs):
        """What `text.Run.measure` makes of one rival with these numbers, who takes twice our time."""
        def process(numbers, seconds):
            def ask(op, path=None, **_):
                if op == "write":
                    Path(path).write_bytes(array("f", numbers).tobytes())
                return {"seconds": [seconds]}
            return SimpleNamespace(ask=ask, process=SimpleNamespace(pid=os.getpid()))

        contenders = SimpleNamespace(children={"ours": process([0.5, 1.0], 1.0), "openvino": process(theirs, 2.0)})
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
            runs = text.Run(SimpleNamespace(rounds=2, batch_tokens=None), None, None, folder)
            return runs, runs.measure(text.Work("one", ["a"], (1,)), contenders, 1)

    def test_a_rival_whose_vectors_differ_does_not_count(self):
        runs, found = self.measured([0.5, 1.00001])
        self.assertEqual((found["rivals"], runs.differs), ({"openvino": 2.0}, False))
        for theirs in ([0.5, 1.2], [0.5], [0.5, float("nan")]):
            runs, found = self.measured(theirs)
            self.assertEqual((found["rivals"], runs.differs), ({}, True))
            self.assertIn("| – |", text.markdown([found], {}, {}, 0))

    def test_the_text_has_enough_sentences(self):
        self.assertGreater(len(text.sentences(text.TEXT)), text.SENTENCES)

    def test_tags_are_taken_off(self):
        self.assertEqual(documents.untagged("The/at jury/nn said/vbd ``/`` and/or/cc ''/'' ./."), 'The jury said "and/or".')


if __name__ == "__main__":
    unittest.main()
