"""Counts the produce in one JSON file: a column a kind.

inboxd runs this once a file, with the file's path as the only argument.
What is printed is the row; what sys.exit() is given is the reason of a failure.
"""

import json
import sys


def count(path):
    with open(path, encoding="utf-8") as file:
        produce = json.load(file)["produce"]
    return {kind: sum(map(int, items.values())) for kind, items in produce.items()}


if __name__ == "__main__":
    try:
        print(json.dumps(count(sys.argv[1])))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
