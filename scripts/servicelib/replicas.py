"""Makes a MongoDB replica set of running members and waits for its primary."""

import time

from . import wire
from .programs import Failure

WAIT_SECONDS = 90


def ensure(ports):
    """Returns when one of `ports` is primary and the others are secondaries. Initiates the set when it is new."""
    config = {
        "_id": "rs0",
        "members": [{"_id": i, "host": "127.0.0.1:%d" % port} for i, port in enumerate(ports)],
        # Private sets of one machine: a failover is noticed in seconds, and tests need not wait for the usual ten.
        "settings": {"electionTimeoutMillis": 3000, "heartbeatIntervalMillis": 1000},
    }
    deadline = time.monotonic() + WAIT_SECONDS
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            replies = [wire.mongo_command(port, {"hello": 1}) for port in ports]
            if sum(bool(reply.get("isWritablePrimary")) for reply in replies) == 1 and all(
                    reply.get("isWritablePrimary") or reply.get("secondary") for reply in replies):
                return
            if not any(reply.get("setName") for reply in replies):
                reply = wire.mongo_command(ports[0], {"replSetInitiate": config}, timeout=30)
                # 23: already initialized, by an `up` that was interrupted.
                if not reply.get("ok") and reply.get("code") != 23:
                    reason = reply.get("errmsg", "replSetInitiate failed")
            else:
                reason = "no primary yet"
        except OSError as error:
            reason = str(error)
        time.sleep(0.05)
    raise Failure("the MongoDB replica set has no primary after %d s (%s): run down and up" % (WAIT_SECONDS, reason))


def has_primary(ports):
    for port in ports:
        try:
            if wire.mongo_command(port, {"hello": 1}).get("isWritablePrimary"):
                return True
        except OSError:
            continue
    return False
