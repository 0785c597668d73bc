"""A whole worker that speaks inboxd-worker/1 by itself. Any language with JSON will do.

inboxd writes a line, the worker answers: hello → ready, job → rows and result, ping → pong.
The number of the socket is in INBOXD_FD; what is printed is log.
"""

import json
import os
import socket

wire = socket.socket(fileno=int(os.environ["INBOXD_FD"]))
# Two files: a write to one that also reads would drop the lines that it has read ahead.
heard = wire.makefile("r", encoding="utf-8")
told = wire.makefile("w", encoding="utf-8")


def say(t, **fields):
    told.write(json.dumps({"t": t, **fields}) + "\n")
    told.flush()


for line in iter(heard.readline, ""):
    m = json.loads(line)
    if m["t"] == "hello":
        # Here a model would be loaded, once.
        say("ready", v=1, name="size")
    elif m["t"] == "ping":
        say("pong", n=m["n"])
    elif m["t"] == "drain":
        break
    elif m["t"] == "job":
        try:
            with open(m["path"], "rb") as file:
                text = file.read()
            row = {"file": m["rel"], "bytes": len(text), "words": len(text.split())}
        except Exception as e:
            say("result", id=m["id"], status="fail", msg=repr(e))
            continue
        say("rows", id=m["id"], seq=0, rows=[row])
        say("result", id=m["id"], status="ok", rows=1, chunks=1)
