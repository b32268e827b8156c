"""`python -m flax_bigbird.examples.state_of_the_union FOLDER` runs the example in a new folder."""

import argparse
from pathlib import Path

from flax_bigbird.examples.state_of_the_union import report
from flax_bigbird.examples.state_of_the_union.demo import QUICK_SETTINGS, Settings, run_demo

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for the data and the model")
    parser.add_argument("--quick", action="store_true", help="run for seconds, as a check")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    results = run_demo(arguments.folder, QUICK_SETTINGS if arguments.quick else Settings())
    print(report.as_markdown(results))
