"""Dates State of the Union addresses: trains a BigBird to predict when a speech was given.

`bigbird demo` runs this example. To follow it, read `demo.py` from top to bottom; it uses

* `speeches.py`: the addresses without the dates that they state, and which of them are held out,
* `baselines.py`: two simple classifiers to compare with,
* `report.py`: the results as JSON and as Markdown.
"""
