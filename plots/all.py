# SPDX-License-Identifier: Apache-2.0
"""Draws all figures of a folder of result files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import convergence
    import families
    import jitter
    import periods
    import results
    import scaling
    import softsync
    import speedup
    import staleness
    import straggler
    import style
    import time_breakdown
    import traffic
except ModuleNotFoundError as error:
    sys.exit(f"{error}. The plots need h5py, matplotlib, numpy and SciPy; on Debian: "
             "apt install python3-h5py python3-matplotlib python3-scipy")

FIGURES = (convergence, speedup, staleness, time_breakdown, traffic)
OF_EXPERIMENTS = (families, jitter, periods, scaling, softsync, straggler)  # each for results of one shape

EXAMPLES = """
examples:
  python3 plots/all.py out/quickstart
      all figures, as PNG and PDF, in out/quickstart/plots

  python3 plots/all.py out/quickstart convergence traffic
      these two alone; `dsgd plot out/quickstart convergence traffic` is the same

  python3 plots/all.py out/quickstart -o paper/figures --target 0.85
      elsewhere, with the time to 85 % test accuracy instead of the target in the experiment

  python3 plots/all.py old-and-new --allow-mixed
      runs of several commits or hosts side by side; seconds and speed-ups may then not compare

exit code: 0 at least one figure was drawn, 1 none could be, 2 wrong usage
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="all.py", description="Draws the figures of a sweep: convergence, speed-up, staleness, time and traffic.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="RESULTS_DIR", type=Path,
                        help="folder with the result files (*.h5) of a sweep")
    names = [figure.__name__ for figure in FIGURES + OF_EXPERIMENTS]
    parser.add_argument("figures", metavar="FIGURE", nargs="*",
                        help="one of " + ", ".join(names) + "; default: all that the results make")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path,
                        help="where figures go (default: RESULTS_DIR/plots)")
    parser.add_argument("--target", metavar="X", type=fraction,
                        help="test accuracy to reach, as a fraction (default: each run's own)")
    parser.add_argument("--allow-mixed", action="store_true",
                        help="plot runs of different commits, build flags or classes of host, each with lines of its own")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder}: not a folder")
    if unknown := [name for name in options.figures if name not in names]:
        parser.error(f"{unknown[0]}: no such figure (allowed: {', '.join(names)})")
    return options


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: not a fraction above 0 and up to 1, such as 0.85")
    return value


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    output = options.output or options.folder / "plots"
    try:
        found = results.load(options.folder, options.target, options.allow_mixed)
        for problem in found.problems:
            print(f"left out: {problem}", file=sys.stderr)
        output.mkdir(parents=True, exist_ok=True)
        style.setup()
        drawn = 0
        for figure in FIGURES + OF_EXPERIMENTS:
            name = figure.__name__
            if options.figures and name not in options.figures:
                continue
            try:
                paths = style.save(figure.draw(found), output, name)
            except style.OfAnotherExperiment:
                if options.figures:
                    print(f"no {name}: it is for results of another shape")
            except style.LeftOut as reason:
                print(f"no {name}: {reason}")
            else:
                drawn += 1
                print(*paths, sep="\n")
    except (results.ResultError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not drawn:
        print(f"error: {options.folder}: no figure could be drawn", file=sys.stderr)
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
