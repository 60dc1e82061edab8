#!/usr/bin/python3
"""Libraries that a build may lack are known to few files, by the compiler's record of what it read."""
import os
import re
import subprocess
import unittest

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


class Includes(unittest.TestCase):
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
