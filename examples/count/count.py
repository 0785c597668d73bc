"""Counts the produce in one JSON file: a column a kind.

inboxd loads this once a worker and calls count() with the path of each file.
The dict that is returned is the row; an exception is the reason of a failure.
"""

import json


def count(path):
    with open(path, encoding="utf-8") as file:
        produce = json.load(file)["produce"]
    return {kind: sum(map(int, items.values())) for kind, items in produce.items()}
