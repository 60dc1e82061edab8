#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A build that lacks something says so when it is configured.

    DSGD_BUILD=build /usr/bin/python3 tests/runs/configure_test.py -v
"""
import os
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("DSGD_BUILD", "build"))
PATIENCE = 240  # seconds


class Configure(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dsgd-")
        self.addCleanup(shutil.rmtree, self.folder)
        with open(f"{BUILD}/CMakeCache.txt") as f:
            self.generator = re.search(r"^CMAKE_GENERATOR:\w+=(.*)$", f.read(), re.M)[1]

    def configure(self, *options):
        """What is said of simulated clusters, and the macros that the programs are compiled with."""
        done = subprocess.run(["cmake", "-S", ROOT, "-B", f"{self.folder}/build", "-G", self.generator, "-DDSGD_TESTS=OFF", "-DDSGD_CUDA=OFF",
                               *options], capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(f"{self.folder}/build/compile_commands.json") as f:
            commands = f.read()
        found = re.findall(r"^-- (With\w* simulated clusters: .*)$", done.stdout, re.M)
        self.assertEqual(len(found), 1, done.stdout)
        self.assertEqual("DSGD_NO_SIMGRID" in commands, found[0].startswith("Without"))
        self.assertEqual("dsgd_sim.cpp" in commands, found[0].startswith("With "))
        return found[0]

    def simgrid(self, version):
        """Options that find a SimGrid of that version."""
        include = f"{self.folder}/{version}"
        os.makedirs(f"{include}/simgrid")
        major, minor = version.split(".")
        with open(f"{include}/simgrid/version.h", "w") as f:
            f.write(f"#define SIMGRID_VERSION_MAJOR {major}\n#define SIMGRID_VERSION_MINOR {minor}\n#define SIMGRID_VERSION_PATCH 0\n")
        return f"-DDSGD_SIMGRID_INCLUDE={include}", "-DDSGD_SIMGRID_LIBRARY=simgrid"

    def test_simgrid(self):
        for version in "3.31", "5.0":
            self.assertEqual(self.configure(*self.simgrid(version)),
                             f"Without simulated clusters: SimGrid {version} was found in {self.folder}/{version}, and this program needs 3.32 "
                             "to 4.x; say where such a version is (DSGD_SIMGRID_INCLUDE and DSGD_SIMGRID_LIBRARY), and build again")
        for version in "3.32", "3.36", "4.0", "4.10":
            self.assertEqual(self.configure(*self.simgrid(version)), f"With simulated clusters: SimGrid {version}")
        self.assertEqual(self.configure("-DDSGD_SIMGRID_INCLUDE="),
                         "Without simulated clusters: no SimGrid was found; install it (Debian: libsimgrid-dev), or say where it is "
                         "(DSGD_SIMGRID_INCLUDE and DSGD_SIMGRID_LIBRARY), and build again")
        self.assertEqual(self.configure("-DDSGD_SIMGRID=OFF"),
                         "Without simulated clusters: this build was configured with DSGD_SIMGRID=OFF; configure it with DSGD_SIMGRID=ON "
                         "and build again")


if __name__ == "__main__":
    unittest.main()
