# Speaks inboxd-worker/1 for one Python function. Needs Python 3.8 and its standard library only.
#
# Must not know: what the function does, where the spool keeps its files.
#
# Invariants
# - Every job gets exactly one result, whatever the function raises or returns.
# - What the function prints is flushed before its result, so that it belongs to its job.
# - Nothing of this file's is visible to the function but its modules; it is never `__main__`'s.


def _inboxd():
    import sys

    # With `-c` the spool comes first, where a json.py of the user's would stand in for the library's, in all
    # routes: the file's folder comes first once everything of ours is here.
    if "" in sys.path:
        sys.path.remove("")

    import base64
    import importlib.machinery
    import importlib.util
    import inspect
    import json
    import linecache
    import os
    import socket
    import traceback
    import types

    class Lines:
        """Lines of a socket, whose own file object is slower."""

        def __init__(self, receive):
            self.receive = receive
            self.rest = b""

        def readline(self):
            data = self.rest
            while True:
                end = data.find(b"\n") + 1
                if end:
                    self.rest = data[end:]
                    return data[:end]
                more = self.receive(65536)
                if not more:
                    self.rest = b""
                    return data
                data += more

    file, function, call = sys.argv[1:4]
    path = os.path.abspath(file)
    stem = os.path.splitext(os.path.basename(path))[0]
    stdio = "INBOXD_FD" not in os.environ
    if stdio:
        reader = os.fdopen(os.dup(0), "rb")
        out = os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        send_bytes = lambda line: _write_all(out, b"\x1e" + line)
        fds = [reader.fileno(), out]
    else:
        wire = socket.socket(fileno=int(os.environ["INBOXD_FD"]))
        wire.set_inheritable(False)
        reader = Lines(wire.recv)
        send_bytes = wire.sendall
        fds = [wire.fileno()]

    def _write_all(fd, data):
        while data:
            data = data[os.write(fd, data):]

    # A forked child must neither speak for us nor hold the connection open. Its numbers stay taken, so
    # that whatever closes them later closes nothing else.
    def forget():
        null = os.open(os.devnull, os.O_RDWR)
        for fd in fds:
            os.dup2(null, fd, inheritable=False)
        os.close(null)

    os.register_at_fork(after_in_child=forget)

    def say(*messages):
        send_bytes(b"".join(json.dumps(m).encode() + b"\n" for m in messages))

    def flush():
        for name, fd in (("stdout", 1), ("stderr", 2)):
            try:
                getattr(sys, name).flush()
            except ValueError:
                # A function closed it, as `with` does it: no later job could print.
                try:
                    setattr(sys, name, open(fd, "w", errors="backslashreplace", closefd=False))
                except OSError:
                    pass
            except (OSError, AttributeError):
                pass
        if c_flush is not None:
            c_flush(None)

    try:
        import ctypes

        c = ctypes.CDLL(None)
        c_flush, c_putenv, c_malloc = c.fflush, c.putenv, c.malloc
        c_putenv.argtypes, c_malloc.argtypes, c_malloc.restype = [ctypes.c_void_p], [ctypes.c_size_t], ctypes.c_void_p
        memmove = ctypes.memmove
    except (ImportError, OSError, AttributeError):
        c_flush = c_putenv = None

    # `os.putenv` keeps every value that there ever was: half a kilobyte a job, for as long as we live. Here
    # each variable has a place of its own, whose memory is never given back, as the C library points to it.
    places = {}

    def put(key, coded):
        text = key + b"=" + coded + b"\0"
        size, place = places.get(key, (0, None))
        if size < len(text):
            size = 2 * len(text)
            place = c_malloc(size)
            if not place:
                raise MemoryError
            places[key] = size, place
        memmove(place, text, len(text))
        c_putenv(place)

    if c_putenv is None:
        put = os.putenv

    # The file itself is always compiled anew: a change within a second would not be seen otherwise,
    # and the spool gets no folder that nobody asked for. What it imports is cached as usual.
    class Fresh(importlib.machinery.SourceFileLoader):
        def get_code(self, name):
            return self.source_to_code(self.get_data(self.path), self.path)

    def describe(error):
        # Without our own frames: the user's file comes first.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == "<inboxd>":
            trace = trace.tb_next
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
            trace = trace.tb_next
        try:
            text = "".join(traceback.format_exception(type(error), error, trace))
        except BaseException:
            text = ""
        # A character may need twelve bytes in JSON, and this stands in one line with the message.
        return text[-60000:]

    def clean(text):
        # Lone surrogates are no JSON that others read.
        return text.encode("utf-8", "backslashreplace").decode()

    def name_of(error):
        try:
            message = str(error)
        except BaseException:
            message = "(its message cannot be made)"
        name = type(error).__name__
        return name + ": " + message if message else name

    class Unfit(Exception):
        """The route cannot work: said once, at the start."""

    def load():
        sys.path.insert(0, os.path.dirname(path))
        sys.argv = [path]
        loader = Fresh(stem, path)
        spec = importlib.util.spec_from_file_location(stem, path, loader=loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules[stem] = module
        spec.loader.exec_module(module)
        found = getattr(module, function, None)
        if found is None:
            raise Unfit("%s has no function %s" % (file, function))
        if not callable(found):
            raise Unfit("%s in %s is not a function" % (function, file))
        if inspect.iscoroutinefunction(found):
            raise Unfit("%s in %s is async; make it a plain function" % (function, file))
        return found

    # Types whose values are checked, and how they are called in JSON's schema.
    kinds = {int: "integer", float: "number", str: "string", bool: "boolean", list: "array", dict: "object"}

    def kind_of(annotation):
        if annotation in kinds:
            return annotation
        outer = getattr(annotation, "__origin__", None)
        return outer if outer in (list, dict) else None

    def signature_of(found):
        """Fields by name: (type or None, required); whether further ones are taken; the schema."""
        try:
            import typing

            hints = typing.get_type_hints(found)
        except Exception:
            hints = getattr(found, "__annotations__", {})
        fields, further, properties, required = {}, False, {}, []
        for name, parameter in inspect.signature(found).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                further = True
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise Unfit('%s cannot fill %s of %s' % (by, parameter, function))
            try:
                kind = kind_of(hints.get(name))
            except TypeError:
                kind = None
            needed = parameter.default is parameter.empty
            fields[name] = (kind, needed)
            properties[name] = {"type": kinds[kind]} if kind else {}
            if needed:
                required.append(name)
        schema = {"type": "object", "properties": properties, "required": required}
        return fields, further, {**schema, "additionalProperties": further}

    def converted(record):
        """The cells of a CSV are text: what is annotated as a number or a truth is made one."""
        for name, (kind, _) in fields.items():
            text = record.get(name)
            if kind is bool:
                record[name] = {"true": True, "1": True, "false": False, "0": False}.get(str(text).lower(), text)
            elif kind in (int, float) and text is not None:
                try:
                    record[name] = kind(text)
                except ValueError:
                    pass
        return record

    class Refused(Exception):
        """The input cannot be used, and trying again is useless."""

    def fit(payload, fields, further):
        wrong = []
        given = {}
        for name, (kind, needed) in fields.items():
            if name not in payload:
                if needed:
                    wrong.append('missing field "%s"' % name)
                continue
            value = payload[name]
            if kind is float and type(value) is int:
                try:
                    value = float(value)
                except OverflowError:
                    pass
            good = kind is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool)))
            if not good:
                shown = json.dumps(value, ensure_ascii=False)
                if len(shown) > 60:
                    shown = shown[:60] + "..."
                got = "null" if value is None else "%s %s" % (type(value).__name__, shown)
                wrong.append('field "%s": expected %s, got %s' % (name, kind.__name__, got))
            given[name] = value
        for name, value in payload.items():
            if name not in fields:
                if further:
                    given[name] = value
                else:
                    wrong.append('unexpected field "%s"' % name)
        if wrong:
            raise Refused("; ".join(wrong))
        return given

    def is_time(value):
        return getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M")

    def plain(value):
        """What json does not know: numpy scalars, dates, and the rest as print would show it."""
        item = getattr(value, "item", None)
        if callable(item) and getattr(value, "shape", ()) == ():
            made = item()
            # A date of nanoseconds becomes a number, NaT too, and a long double stays what it is.
            if type(made) is type(value) or (is_time(value) and type(made) is int):
                return str(value)
            return tame(made)
        iso = getattr(value, "isoformat", None)
        if callable(iso):
            return iso()
        tolist = getattr(value, "tolist", None)
        if callable(tolist):
            is_numpy = type(value).__module__ == "numpy"
            return tame((value.astype(str) if is_numpy and is_time(value) else value).tolist())
        if isinstance(value, (bytes, bytearray)):
            return bytes(value).decode("utf-8", "surrogateescape")
        if isinstance(value, (set, frozenset)):
            return list(value)
        return str(value)

    def tame(value):
        """NaN and the infinities, which JSON has not, as the csv module writes them."""
        if type(value) is float and (value != value or value in (float("inf"), float("-inf"))):
            return repr(value)
        if isinstance(value, dict):
            return {str(k): tame(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [tame(v) for v in value]
        if isinstance(value, float) and type(value) is not float:
            return tame(float(value))
        return value

    def tamed(row):
        """`plain` may meet a NaN that `tame` did not see: made plain first, then tame."""
        return tame(json.loads(json.dumps(row, default=plain)))

    # `dumps` with options makes an encoder each time.
    strict = json.JSONEncoder(default=plain, allow_nan=False).encode

    def text_of(rows):
        try:
            return strict(rows)
        except (ValueError, TypeError):
            return json.dumps(tamed(tame(rows)), default=plain)

    def rows_of(value):
        if value is None:
            return []
        if isinstance(value, dict):
            return [value]
        if isinstance(value, list):
            for item in value:
                if not isinstance(item, dict):
                    break
            else:
                return value
            raise Refused(
                "returned a list with %s, expected dict, list of dicts or None" % type(item).__name__
            )
        raise Refused("returned %s, expected dict, list of dicts or None" % type(value).__name__)

    def bytes_of(job, name):
        """A path as Python has it: bytes that are not UTF-8 become surrogate escapes. Where the locale is of
        another coding, the characters of a name are others than in JSON: its bytes count."""
        text = job.get(name)
        if text is not None:
            return text if is_utf8 or text.isascii() else os.fsdecode(text.encode())
        coded = job.get(name + "_b64")
        return None if coded is None else os.fsdecode(base64.b64decode(coded))

    # Setting `os.environ` costs more than all else here, so what a job says goes to where it keeps its
    # values, and only where they differ. An interpreter that keeps them otherwise gets the slow way.
    kept = getattr(os.environ, "_data", None)
    coding = sys.getfilesystemencoding()
    is_utf8 = coding == "utf-8"
    is_quick = type(kept) is dict and all(type(key) is bytes for key in kept)

    def tell(name, value):
        if is_quick:
            key, coded = name.encode(), value.encode(coding, "surrogateescape")
            if kept.get(key) != coded:
                put(key, coded)
                kept[key] = coded
        else:
            os.environ[name] = value

    def stand(job):
        """Folders of jobs, into which a function changed before, are gone or another's by now."""
        nonlocal home, jobs
        if home is None:
            folder = os.path.dirname(bytes_of(job, "scratch"))
            if "record_no" in job:
                folder = os.path.dirname(folder)
            home, jobs = os.getcwd(), os.path.realpath(folder) + os.sep
        try:
            if not os.getcwd().startswith(jobs):
                return
        except OSError:
            pass
        os.chdir(home)

    last = home = jobs = None

    def facts(job):
        nonlocal last
        name = job["id"].partition("/")[0]
        if name != last:
            stand(job)
            last = name
        tell("INBOXD_JOB", name)
        tell("INBOXD_ATTEMPT", str(job["attempt"]))
        for name in ("path", "name", "rel", "scratch"):
            tell("INBOXD_" + name.upper(), bytes_of(job, name))
        tell("INBOXD_DEADLINE_MS", str(job["deadline_ms"]))
        if "record_no" in job:
            tell("INBOXD_RECORD_NO", str(job["record_no"]))
        output = bytes_of(job, "output")
        if output is not None:
            tell("INBOXD_OUTPUT", output)
        elif "INBOXD_OUTPUT" in os.environ:
            del os.environ["INBOXD_OUTPUT"]

    def exited(code):
        """What sys.exit(code) means: the exit codes of a `command`."""
        if code is None:
            code = 0
        if not isinstance(code, int):
            try:
                return {"status": "fail", "msg": "exit 1: %s" % (code,)}
            except BaseException:
                return {"status": "fail", "msg": "exit 1: (its message cannot be made)"}
        code &= 0xFF
        if code == 0:
            return {"status": "ok"}
        if code == 66:
            return {"status": "incomplete", "msg": "exit 66"}
        kinds = {65: "permanent", 69: "try_again", 75: "try_again", 126: "misconfigured", 127: "misconfigured"}
        return {"status": "fail", "msg": "exit %d" % code, "class": kinds.get(code, "transient")}

    def payload_of(where):
        with open(where, "rb") as source:
            payload = json.loads(source.read())
        if not isinstance(payload, dict):
            raise Refused("the file is not a JSON object but %s" % type(payload).__name__)
        if call == "payload":
            if "payload" not in payload:
                raise Refused('missing field "payload"')
            payload = payload["payload"]
            if not isinstance(payload, dict):
                raise Refused('field "payload": expected dict, got %s' % type(payload).__name__)
        return payload

    hello = json.loads(reader.readline() or b"{}")
    if hello.get("t") != "hello":
        return
    most = hello.get("max_line_bytes", 1 << 20)
    try:
        target = load()
        by = 'call = "kwargs"' if call in ("kwargs", "payload") else "a record"
        by_name = call not in ("path", "line")
        fields, further, schema = signature_of(target) if by_name else (None, None, None)
    except Unfit as error:
        flush()
        say({"t": "init_error", "class": "permanent", "msg": clean(str(error))})
        return
    except BaseException as error:
        flush()
        msg, detail = clean(name_of(error)[:20000]), clean(describe(error))
        say({"t": "init_error", "class": "permanent", "msg": msg, "detail": detail})
        return
    flush()
    ready = {"t": "ready", "v": 1, "name": "python"}
    if schema is not None:
        ready["schema"] = schema
    say(ready)

    def chunks(rows):
        """Rows as messages no longer than a line may be."""
        whole = text_of(rows)
        if len(whole) + 200 <= most:
            return [whole]
        # Of a message: all that is not rows, and the brackets around them.
        parts, now, size = [], [], 201
        for row in rows:
            text = text_of(row)
            if now and size + len(text) + 1 > most:
                parts.append("[" + ",".join(now) + "]")
                now, size = [], 201
            now.append(text)
            size += len(text) + 1
        return parts + ["[" + ",".join(now) + "]"]

    def run(job):
        id = job["id"]
        id = '"' + id + '"' if id.isalnum() and id.isascii() else json.dumps(id)
        try:
            facts(job)
            where = bytes_of(job, "path")
            if call == "path":
                rows = rows_of(target(where))
            elif call == "line":
                rows = rows_of(target(job["record"]))
            elif call == "fields":
                rows = rows_of(target(**fit(job["record"], fields, further)))
            elif call == "text fields":
                rows = rows_of(target(**fit(converted(job["record"]), fields, further)))
            else:
                rows = rows_of(target(**fit(payload_of(where), fields, further)))
            if not rows:
                flush()
                return '{"t":"result","id":%s,"status":"ok"}\n' % id
            parts = chunks(rows)
            if any(len(part) + 200 > most for part in parts):
                raise Refused("a row is longer than a line of the protocol (%d bytes)" % most)
            flush()
            text = "".join(
                '{"t":"rows","id":%s,"seq":%d,"rows":%s}\n' % (id, seq, part)
                for seq, part in enumerate(parts)
            )
            counts = (id, len(rows), len(parts))
            return text + '{"t":"result","id":%s,"status":"ok","rows":%d,"chunks":%d}\n' % counts
        except Refused as error:
            answer = {"status": "fail", "class": "permanent", "msg": str(error)}
        except SystemExit as error:
            answer = exited(error.code)
        except BaseException as error:
            answer = {"status": "fail", "msg": name_of(error), "detail": describe(error)}
            if isinstance(error, MemoryError):
                answer["class"] = "resource"
            # The frames hold what the function had in hand; they go before the next job.
            error.__traceback__ = None
        linecache.checkcache()
        flush()
        answer["t"], answer["id"] = "result", job["id"]
        for key, length in (("msg", 20000), ("detail", 60000)):
            if key in answer:
                answer[key] = clean(answer[key][:length])
        return json.dumps(answer) + "\n"

    if stdio:
        send_text = lambda text: send_bytes(text.rstrip("\n").replace("\n", "\n\x1e").encode() + b"\n")
    else:
        send_text = lambda text: send_bytes(text.encode())
    # `loads` looks first which of five encodings its bytes have.
    scan = json.JSONDecoder().scan_once
    # A record may be nested deeper than Python reads. The job's id stands before it, as inboxd writes it.
    before = b'{"t":"job","id":"'
    deep = {"t": "result", "status": "fail", "class": "permanent", "msg": "the record is nested too deeply for Python"}
    for line in iter(reader.readline, b""):
        try:
            message = scan(line.decode(), 0)[0]
        except RecursionError:
            if not line.startswith(before):
                raise
            say({**deep, "id": line[len(before):].partition(b'"')[0].decode()})
            continue
        kind = message.get("t")
        if kind == "job":
            send_text(run(message))
        elif kind == "ping":
            say({"t": "pong", "n": message["n"]})
        elif kind == "drain":
            break


_inboxd()
