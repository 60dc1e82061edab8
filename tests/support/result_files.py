# SPDX-License-Identifier: Apache-2.0
"""What tests do to result files."""
import zlib


def seal(path):
    """Writes the first line that results/README.md describes."""
    with open(path, "r+b") as file:
        content = file.read()[64:]
        file.seek(0)
        file.write(b"%-63s\n" % (b"dsgd result, schema 1, crc32 %08x of %d bytes" % (zlib.crc32(content), len(content))))
