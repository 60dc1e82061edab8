#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Links of all Markdown files lead somewhere, and what they quote is as it is.

    /usr/bin/python3 tests/runs/links_test.py -v
"""
import os
import re
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(path):
    with open(f"{ROOT}/{path}") as f:
        return f.read()


def pages():
    """Without builds, results and what else git ignores; a copy of the sources without git has none of these."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return [name for name in listed.stdout.splitlines() if os.path.exists(f"{ROOT}/{name}")]
    found = (os.path.relpath(f"{folder}/{name}", ROOT) for folder, _, names in os.walk(ROOT) for name in names)
    return sorted(name for name in found if name.endswith(".md"))


def prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors(path):
    """Of a page's headings, as GitHub and GitLab make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(read(path)), re.M):
        base = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        name, number = base, 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


class Links(unittest.TestCase):
    def test_relative_links(self):
        seen = 0
        for page in pages():
            for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
                if re.match(r"[a-z]+:", target):
                    continue
                seen += 1
                path, _, anchor = target.partition("#")
                path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
                with self.subTest(page=page, link=target):
                    self.assertTrue(os.path.exists(f"{ROOT}/{path}"), f"{path} does not exist")
                    if anchor:
                        self.assertIn(anchor, anchors(path))
        self.assertGreater(seen, 50)

    def test_every_source_names_its_licence(self):
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
        if not listed:
            self.skipTest("the build keeps no record of sources: no git here")
        sources = [f for f in listed if f.endswith((".h", ".cpp", ".cu", ".py", ".sh", ".cmake", "CMakeLists.txt")) and not f.startswith("tests/fixtures")]
        self.assertGreater(len(sources), 250)
        self.assertEqual([f for f in sources if "SPDX-License-Identifier: Apache-2.0" not in read(f)[:200]], [])

    def test_first_page_is_short(self):
        self.assertLessEqual(os.path.getsize(f"{ROOT}/README.md"), 12 * 1024)

    def test_first_page_lists_every_strategy(self):
        listed = re.findall(r"^  entry\((\w+)\)", read("strategies/all.cpp"), re.M)
        self.assertGreater(len(listed), 20)
        for page in ("README.md", "strategies/README.md"):
            rows = [line.split("|")[1] for line in read(page).splitlines() if line.startswith("| ")]
            named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
            self.assertEqual([name for name in listed if name not in named], [], page)

    def test_example_is_the_strategy_as_it_is(self):
        (example,) = re.findall(r"^```diff\n(.*?)^```$", read("strategies/README.md"), re.M | re.S)
        undo = subprocess.run(["git", "apply", "--check", "--reverse"], cwd=ROOT, input=example, capture_output=True, text=True)
        self.assertEqual((undo.returncode, undo.stderr), (0, ""))

    def test_versions_agree(self):
        version = re.search(r"^project\(dsgd VERSION (\S+)", read("CMakeLists.txt"), re.M).group(1)
        self.assertIn(f"\nversion: {version}\n", read("CITATION.cff"))
        self.assertRegex(read("CHANGELOG.md"), rf"(?m)^## .*\b{re.escape(version)}$")


if __name__ == "__main__":
    unittest.main()
