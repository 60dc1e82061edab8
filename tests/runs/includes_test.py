#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may include what: a forbidden include does not compile, and few files know the libraries that a build may lack."""
import json
import os
import re
import shlex
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("DSGD_BUILD", "build"))

# What a library's headers have in their paths, and the objects that may depend on them.
READERS = {
    "/simgrid/": r"dsgd_smpi\.dir/|dsgd-sim\.dir/",
    "/smpi/": r"dsgd_smpi\.dir/|dsgd-sim\.dir/",
    "/openmpi/": r"dsgd_mpi\.dir/",
    "/dnnl": r"onednn/onednn\.cpp",
    "/cuda_runtime": r"/cuda/|/cudnn/|dsgd_nccl\.dir/",
    "/cudnn": r"/cudnn/|cuda/findings\.cpp",
    "/nccl.h": r"dsgd_nccl\.dir/|cuda/findings\.cpp",
}


# A source of each library, and headers that it must not see: one of every library that it does not stand on.
FORBIDDEN = {
    "models/vec/vec.cpp": ["dataset.h", "network.h", "strategy.h", "mpi/ranks.h", "config/experiment.h"],
    "datasets/idx.cpp": ["network.h", "strategy.h", "mpi/ranks.h", "config/experiment.h"],
    "models/model.cpp": ["strategy.h", "mpi/ranks.h", "config/experiment.h"],
    "strategies/sync.cpp": ["dataset.h", "sampler.h", "network.h", "device.h", "kernels/dense.h", "mpi/ranks.h", "config/experiment.h"],
    "strategies/runtime/mpi/world.cpp": ["dataset.h", "network.h", "config/experiment.h"],
    "harness/run/run.cpp": ["mpi/ranks.h"],
}
ALLOWED = {
    "models/vec/vec.cpp": ["optimizer.h"],
    "datasets/idx.cpp": ["random.h", "dataset.h"],
    "models/model.cpp": ["dataset.h", "vec.h", "kernels/dense.h"],
    "strategies/sync.cpp": ["vec.h", "optimizer.h", "parts/sparse.h", "communicator.h"],
    "strategies/runtime/mpi/world.cpp": ["strategy.h", "vec.h", "message.h"],
    "harness/run/run.cpp": ["strategy.h", "model.h", "dataset.h", "vec.h", "results/record.h"],
}


def compiles(command, header):
    """Whether a source elsewhere, compiled as this one is, may include the header."""
    words = shlex.split(command["command"])
    while os.path.basename(words[0]) in ("ccache", "sccache"):
        words.pop(0)
    cut = words.index("-o")
    words[cut:cut + 2] = []
    words[words.index("-c"):] = ["-fsyntax-only"]
    with tempfile.NamedTemporaryFile("w", suffix=".cpp") as source:
        source.write(f'#include "{header}"\n')
        source.flush()
        return subprocess.run([*words, source.name], cwd=command["directory"], capture_output=True).returncode == 0


class Includes(unittest.TestCase):
    def test_forbidden(self):
        with open(f"{BUILD}/compile_commands.json") as f:
            commands = {os.path.relpath(c["file"], ROOT): c for c in json.load(f) if "dsgd_smpi.dir" not in c["command"]}
        for source in FORBIDDEN:
            for header in ALLOWED[source]:
                with self.subTest(source=source, allowed=header):
                    self.assertTrue(compiles(commands[source], header))
            for header in FORBIDDEN[source]:
                with self.subTest(source=source, forbidden=header):
                    self.assertFalse(compiles(commands[source], header))

    def test_optional_libraries(self):
        if not os.path.exists(f"{BUILD}/build.ninja"):
            self.skipTest("the build keeps no record of headers: configure it with -G Ninja")
        record = subprocess.run(["ninja", "-C", BUILD, "-t", "deps"], capture_output=True, text=True, check=True).stdout
        read = {}
        for part in record.split("\n\n"):
            if (name := part.split(":")[0]).startswith("CMakeFiles/"):
                read[name] = part.splitlines()[1:]
        self.assertGreater(len(read), 50)
        for library, readers in READERS.items():
            with self.subTest(library):
                found = [name for name, headers in read.items() if any(library in header for header in headers)]
                self.assertEqual([name for name in found if not re.search(readers, name)], [])


if __name__ == "__main__":
    unittest.main()
