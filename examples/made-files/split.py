"""Splits a Markdown file into one file a section, below the folder that is the second argument.

Nothing of the folder is seen until the worker ends with 0; then all of it is.
"""

import json
import os
import re
import sys


def main(path, output):
    with open(path, encoding="utf-8") as file:
        parts = re.split(r"^# +", file.read(), flags=re.MULTILINE)[1:]
    if not parts:
        sys.exit("no section begins with '# '")
    for number, part in enumerate(parts, 1):
        title, _, text = part.partition("\n")
        name = re.sub(r"\W+", "-", title.strip().lower())
        with open(os.path.join(output, f"{number}-{name}.md"), "w", encoding="utf-8") as file:
            file.write(text.strip() + "\n")
    print(json.dumps({"sections": len(parts), "bytes": os.path.getsize(path)}))


main(sys.argv[1], sys.argv[2])
