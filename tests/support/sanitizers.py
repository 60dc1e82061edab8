# SPDX-License-Identifier: Apache-2.0
"""Whether sanitizers watch the programs of a build."""
import os
import re


def sanitized(build):
    cache = f"{build}/CMakeCache.txt"  # programs that were carried to another machine have none
    if not os.path.exists(cache):
        return False
    with open(cache) as f:
        return re.search(r"^DSGD_SANITIZE:\w+=.", f.read(), re.M) is not None


OWN_MEMORY = "a sanitizer has memory of its own"
