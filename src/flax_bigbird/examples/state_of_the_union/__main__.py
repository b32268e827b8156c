"""`python -m flax_bigbird.examples.state_of_the_union FOLDER` runs the example in a new folder."""

import argparse
from pathlib import Path

from flax_bigbird.examples.state_of_the_union import report
from flax_bigbird.examples.state_of_the_union.demo import Settings, run_demo

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for the data and the model")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    results = run_demo(arguments.folder, Settings())
    print(report.as_markdown(results))
