"""Classifies one signal and answers by prefixed lines.

A prefix counts only at the start of a line: `LOG: saw ERROR: in data` is a log line.
"""

import json
import sys


def main(path):
    with open(path, encoding="utf-8") as file:
        signal = json.load(file)["signal"]
    print(f"LOG: {len(signal)} samples")
    if not signal:
        print("ERROR: empty signal")
        return
    power = sum(x * x for x in signal) / len(signal)
    changes = sum(a * b < 0 for a, b in zip(signal, signal[1:]))
    kind = "silence" if power < 0.01 else "noise" if changes > len(signal) / 2 else "motor"
    print("OUTPUT: " + json.dumps({"class": kind, "power": round(power, 3)}))


main(sys.argv[1])
