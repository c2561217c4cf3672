"""Just enough of the Redis and MongoDB wire protocols to start the services.

No driver and no shell is needed for that: PING and INFO for Redis; hello,
replSetInitiate, replSetGetStatus and serverStatus for MongoDB, over OP_MSG.
"""

import socket
import struct


def redis_command(port, *words, timeout=2.0):
    """Sends one command, returns the text of a simple or bulk reply. OSError when there is no usable answer."""
    request = b"*%d\r\n" % len(words)
    for word in words:
        request += b"$%d\r\n%s\r\n" % (len(word), word.encode())
    with socket.create_connection(("127.0.0.1", port), timeout) as conn, conn.makefile("rb") as reply:
        conn.sendall(request)
        line = reply.readline()
        if line[:1] == b"$":
            return reply.read(int(line[1:])).decode()
        if line[:1] == b"+":
            return line[1:].strip().decode()
        raise OSError("Redis on port %d answered %r" % (port, line))


def mongo_command(port, command, timeout=5.0):
    """Runs `command` (its first key names it) on database admin, returns the reply. OSError when there is no answer."""
    body = struct.pack("<IB", 0, 0) + _document(dict(command, **{"$db": "admin"}))
    with socket.create_connection(("127.0.0.1", port), timeout) as conn, conn.makefile("rb") as reply:
        conn.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body)
        header = reply.read(16)
        if len(header) < 16:
            raise OSError("MongoDB on port %d closed the connection" % port)
        message = reply.read(struct.unpack("<i", header[:4])[0] - 16)
        # Four flag bytes and the section kind (0: one document) come before the document.
        return _parse_document(message, 5)[0]


def _document(fields):
    body = b"".join(_element(name, value) for name, value in fields.items())
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def _element(name, value):
    if isinstance(value, bool):
        kind, data = 0x08, struct.pack("<?", value)
    elif isinstance(value, int):
        kind, data = 0x10, struct.pack("<i", value)
    elif isinstance(value, str):
        text = value.encode() + b"\0"
        kind, data = 0x02, struct.pack("<i", len(text)) + text
    elif isinstance(value, dict):
        kind, data = 0x03, _document(value)
    elif isinstance(value, list):
        kind, data = 0x04, _document({str(i): item for i, item in enumerate(value)})
    else:
        raise TypeError("no BSON for %r" % (value,))
    return bytes([kind]) + name.encode() + b"\0" + data


def _parse_document(data, start):
    end = start + struct.unpack_from("<i", data, start)[0]
    at, fields = start + 4, {}
    while data[at] != 0:
        kind, stop = data[at], data.index(0, at + 1)
        name = data[at + 1 : stop].decode()
        fields[name], at = _parse_value(kind, data, stop + 1)
    return fields, end


# BSON kinds of fixed width whose value nobody here reads: object id, date, null, regular timestamps, decimal.
_SKIPPED = {0x07: 12, 0x09: 8, 0x0A: 0, 0x11: 8, 0x13: 16, 0x06: 0, 0xFF: 0, 0x7F: 0}


def _parse_value(kind, data, at):
    if kind == 0x01:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == 0x02:
        size = struct.unpack_from("<i", data, at)[0]
        return data[at + 4 : at + 3 + size].decode(), at + 4 + size
    if kind == 0x03:
        return _parse_document(data, at)
    if kind == 0x04:
        fields, end = _parse_document(data, at)
        return list(fields.values()), end
    if kind == 0x05:
        return None, at + 5 + struct.unpack_from("<i", data, at)[0]
    if kind == 0x08:
        return data[at] == 1, at + 1
    if kind == 0x10:
        return struct.unpack_from("<i", data, at)[0], at + 4
    if kind == 0x12:
        return struct.unpack_from("<q", data, at)[0], at + 8
    if kind in _SKIPPED:
        return None, at + _SKIPPED[kind]
    raise OSError("BSON kind 0x%02x is not known here" % kind)
