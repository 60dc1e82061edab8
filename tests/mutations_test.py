"""Tests of mutations.toml: its bugs fit the sources, and every strategy has some."""
import collections
import os
import re
import unittest

import mutation

STRATEGIES = os.path.join(mutation.ROOT, "strategies")


class Bugs(unittest.TestCase):
    def setUp(self):
        self.bugs = mutation.read_bugs([])  # each fits exactly one place

    def test_change_something(self):
        for bug in self.bugs:
            self.assertNotEqual(bug["old"], bug["new"], bug["name"])

    def test_every_strategy_has_three(self):
        count = collections.Counter(bug["file"] for bug in self.bugs)
        for name in os.listdir(STRATEGIES):
            with open(os.path.join(STRATEGIES, name)) as f:
                if re.search(r"^extern const StrategyEntry \w+_entry", f.read(), re.M):
                    self.assertGreaterEqual(count[f"strategies/{name}"], 3, name)


if __name__ == "__main__":
    unittest.main()
