# SPDX-License-Identifier: Apache-2.0
"""What tests know of Open MPI's launcher, which is ORTE's up to 4.1 and PRRTE's from 5.0 on."""
import os

PROGRAMS = "mpirun", "prterun"  # what its process is called
# What it and the ranks keep in TMPDIR while a job runs: names up to the first dot.
FILES = {"ompi", "vader_segment"}, {"prterun", "sm_segment"}


def mpirun(ranks, crowded=None):
    """Words that start ranks of the program that follows them; crowded: as if they outnumbered the cores."""
    if crowded is None:
        crowded = ranks > (os.cpu_count() or 1)
    extra = ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"] if crowded else []
    return ["mpirun", "-n", str(ranks), *extra]


def variables():
    """For its environment."""
    quiet = {"OMPI_MCA_opal_reachable": "weighted"}  # 5.0 complains of every rank where hosts have IPv6
    return quiet | (dict(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1") if os.geteuid() == 0 else {})
