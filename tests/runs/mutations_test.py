# SPDX-License-Identifier: Apache-2.0
"""Tests of mutations.toml: its bugs fit the sources, and every strategy has some."""
import collections
import glob
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "mutation"))
import mutation  # noqa: E402

STRATEGIES = os.path.join(mutation.ROOT, "strategies")


class Bugs(unittest.TestCase):
    def setUp(self):
        self.bugs = mutation.read_bugs([])  # each fits exactly one place

    def test_change_something(self):
        for bug in self.bugs:
            self.assertNotEqual(bug["old"], bug["new"], bug["name"])

    def test_every_strategy_has_three(self):
        count = collections.Counter(bug["file"] for bug in self.bugs)
        for path in glob.glob(f"{STRATEGIES}/*.cpp"):
            name = os.path.basename(path)
            with open(path) as f:
                if re.search(r"^extern const StrategyEntry \w+_entry", f.read(), re.M):
                    self.assertGreaterEqual(count[f"strategies/{name}"], 3, name)


if __name__ == "__main__":
    unittest.main()
