"""Redis and mongod as plain processes of this machine."""

import os
import random
import signal
import socket
import subprocess
import time

from . import programs, wire
from .programs import Failure

ATTEMPTS = 5
START_SECONDS = 60


class PortTaken(Exception):
    """Another process was faster; another port will do."""


def free_port(taken):
    """A loopback port nobody listens on. Below the ephemeral range, or an outgoing connection could take it while a service restarts."""
    for _ in range(1000):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in taken:
            return port
    raise Failure("no free loopback port between 20000 and 32000: stop what holds them")


class Local:
    """The services of one set. `state` is what the state file holds: {"redis": {port, pid}, "mongodb": [{port, pid}, ...]}."""

    def __init__(self, store, home, state, save):
        self.store, self.home, self.state, self.save = store, home, state, save

    def up(self, members):
        redis, mongod = programs.redis_server(self.store), programs.mongod(self.store)
        self._ensure("redis", self.state.setdefault("redis", {}), lambda port: self._redis(redis, port), _redis_pid)
        nodes = self.state.setdefault("mongodb", [{} for _ in range(members)])
        cache = "1" if members == 1 else "0.5"
        for number, node in enumerate(nodes):
            self._ensure("mongodb-%d" % number, node, lambda port, n=number: self._mongod(mongod, n, port, cache), _mongod_pid)

    def alive(self):
        return all(self._runs(service) for service in self._services())

    def describe(self):
        return ["%-10s 127.0.0.1:%s  pid %s%s" % (name, service.get("port", "-"), service.get("pid", "-"), "" if self._runs(service) else "  not running")
                for name, service in self._named()]

    def down(self):
        # The data goes with the processes, so there is nothing to shut down in order.
        for service in self._services():
            if self._runs(service):
                _kill(service["pid"])
        deadline = time.monotonic() + 20
        while any(self._runs(service) for service in self._services()):
            if time.monotonic() > deadline:
                raise Failure("pids %s do not end: kill them and try again" % [s["pid"] for s in self._services() if self._runs(s)])
            time.sleep(0.02)

    def _named(self):
        yield "redis", self.state.get("redis", {})
        for number, node in enumerate(self.state.get("mongodb", [])):
            yield "mongodb-%d" % number, node

    def _services(self):
        return [service for _, service in self._named()]

    def _runs(self, service):
        """A pid counts only while its command line names our port: pids are used again, and the dead may wait to be reaped."""
        if not service.get("pid"):
            return False
        command = _command_line(service["pid"])
        return str(service["port"]) in command and ("redis" in command or "valkey" in command or "mongod" in command)

    def _ensure(self, name, service, command, pid_of):
        """Starts the service unless it runs; one that died comes back on its own port with its own data."""
        if self._runs(service):
            return
        keep = service.get("port")
        for _ in range(ATTEMPTS):
            port = keep or free_port([other.get("port") for other in self._services()])
            try:
                self._start(name, service, port, command(port), pid_of)
                return
            except PortTaken:
                if keep:
                    raise Failure("port %d of %s is taken by another process: free it, or run down and up" % (port, name))
        raise Failure("%d ports in a row were taken while %s started: try again" % (ATTEMPTS, name))

    def _start(self, name, service, port, command, pid_of):
        log_path = os.path.join(self.home, name + ".log")
        begin = os.path.getsize(log_path) if os.path.exists(log_path) else 0
        with open(log_path, "ab") as log:
            # A session of its own and no inherited descriptor: the service outlives this script and its terminal.
            process = subprocess.Popen(command, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        service.update(port=port, pid=process.pid)
        self.save()
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None:
                with open(log_path, "rb") as log:
                    log.seek(begin)
                    text = log.read().decode(errors="replace")
                service.pop("pid")
                if "in use" in text:
                    raise PortTaken()
                lines = text.strip().splitlines()
                raise Failure("%s ended at once (%s): see %s" % (name, lines[-1][:300] if lines else "no output", log_path))
            try:
                if pid_of(port) == process.pid:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                service.pop("pid")
                raise Failure("%s did not answer within %d s: see %s" % (name, START_SECONDS, log_path))
            time.sleep(0.02)

    def _redis(self, program, port):
        data = os.path.join(self.home, "redis")
        os.makedirs(data, exist_ok=True)
        return [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", data, "--daemonize", "no", "--save", "",
                "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]

    def _mongod(self, program, number, port, cache):
        data = os.path.join(self.home, "mongodb-%d" % number)
        os.makedirs(data, exist_ok=True)
        return [program, "--port", str(port), "--bind_ip", "127.0.0.1", "--dbpath", data, "--replSet", "rs0", "--nounixsocket",
                "--wiredTigerCacheSizeGB", cache, "--oplogSize", "512", "--setParameter", "diagnosticDataCollectionEnabled=false",
                # What a killed process leaves open, keeps others off its rows for this long.
                "--setParameter", "transactionLifetimeLimitSeconds=5",
                # Tests have databases of their own, each of a hundred files: those that are not used are closed soon.
                "--wiredTigerEngineConfigString",
                "file_manager=(close_idle_time=20,close_scan_interval=5,close_handle_minimum=100)"]


def _redis_pid(port):
    for line in wire.redis_command(port, "INFO", "server").splitlines():
        if line.startswith("process_id:"):
            return int(line.split(":")[1])
    return None


def _mongod_pid(port):
    wire.mongo_command(port, {"hello": 1})
    return wire.mongo_command(port, {"serverStatus": 1}).get("pid")


def _command_line(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        if os.path.isdir("/proc/self"):
            return ""
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], stdout=subprocess.PIPE).stdout.decode(errors="replace")


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
