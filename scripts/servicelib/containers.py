"""Redis and MongoDB as containers of the project's docker-compose.yml."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time

from . import wire
from .local import ATTEMPTS, free_port
from .programs import Failure


def available():
    """True when a Docker engine answers and the compose plugin is there."""
    if not shutil.which("docker"):
        return False
    try:
        return all(subprocess.run(["docker"] + words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  timeout=20).returncode == 0 for words in (["info"], ["compose", "version"]))
    except (OSError, subprocess.TimeoutExpired):
        return False


class Containers:
    """The services of one set; has the methods of `local.Local`.

    A client of a replica set connects to the names that the members call themselves by. So every mongod listens, inside, on the very port that is
    published on the host's loopback, is called 127.0.0.1:PORT, and all share one network namespace: the names hold on both sides.
    """

    def __init__(self, project, home, state, save):
        self.project, self.home, self.state, self.save = project, home, state, save
        directory = hashlib.sha256(project.encode()).hexdigest()[:8]
        self.name = "contextd-%s-%s" % (os.path.basename(home), directory)
        self.override = os.path.join(home, "compose.json")

    def up(self, members):
        if self.state.get("ready"):
            self._compose_up()
            return
        for attempt in range(ATTEMPTS):
            ports = []
            for _ in range(members + 1):
                ports.append(free_port(ports))
            self.state.update(redis={"port": ports[0]}, mongodb=[{"port": port} for port in ports[1:]])
            self.save()
            with open(self.override, "w") as file:
                json.dump(self._services(), file, indent=1)
            try:
                self._compose_up()
                return
            except Failure as failure:
                self.down()
                if attempt + 1 == ATTEMPTS or not ("already allocated" in str(failure) or "in use" in str(failure)):
                    raise

    def alive(self):
        try:
            wire.redis_command(self.state["redis"]["port"], "PING")
            for node in self.state["mongodb"]:
                wire.mongo_command(node["port"], {"hello": 1})
            return True
        except (OSError, KeyError):
            return False

    def describe(self):
        named = [("redis", self.state["redis"])] + [("mongodb-%d" % i, node) for i, node in enumerate(self.state["mongodb"])]
        return ["%-10s 127.0.0.1:%d  container of %s" % (name, service["port"], self.name) for name, service in named]

    def down(self):
        if os.path.exists(self.override):
            self._compose("down", "--volumes", "--remove-orphans", "--timeout", "1")

    def _compose_up(self):
        services = ["redis", "mongodb"] + ["mongodb-%d" % i for i in range(1, len(self.state["mongodb"]))]
        self._compose("up", "--detach", "--quiet-pull", *services)
        deadline = time.monotonic() + 60
        while not self.alive():
            if time.monotonic() > deadline:
                raise Failure("the containers of %s do not answer: see `docker compose -p %s logs`" % (self.name, self.name))
            time.sleep(0.1)

    def _compose(self, *words):
        # Settings that the file requires for its other services, such as passwords, do not matter here.
        command = ["docker", "compose", "--project-directory", self.project, "--project-name", self.name,
                   "-f", os.path.join(self.project, "docker-compose.yml"), "-f", self.override] + list(words)
        environment = dict(os.environ, GRAFANA_ADMIN_PASSWORD=os.environ.get("GRAFANA_ADMIN_PASSWORD", "unused"))
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            lines = done.stdout.decode(errors="replace").strip().splitlines()
            raise Failure("docker compose %s failed (%s)" % (words[0], lines[-1][:300] if lines else "no output"))

    def _services(self):
        """What differs from docker-compose.yml. JSON is YAML."""
        ports = [node["port"] for node in self.state["mongodb"]]
        redis = self._store("redis", "/data")
        mongodb = dict(_mongod(ports[0], len(ports)), **self._store("mongodb-0", "/data/db"))
        services = {
            "redis": dict(redis, entrypoint=["valkey-server"], command=_REDIS, ports=["127.0.0.1:%d:6379" % self.state["redis"]["port"]]),
            "mongodb": dict(mongodb, ports=["127.0.0.1:%d:%d" % (port, port) for port in ports]),
        }
        for number, port in enumerate(ports[1:], 1):
            node = dict(_mongod(port, len(ports)), image="${MONGODB_IMAGE:-mongo:8}", network_mode="service:mongodb")
            services["mongodb-%d" % number] = dict(node, **self._store("mongodb-%d" % number, "/data/db"))
        # Nothing is published from an internal network.
        for service in services.values():
            service["restart"] = "no"
        return {"services": services, "networks": {"backend": {"internal": False}}}

    def _store(self, name, target):
        """The directory for a service's data, written as the caller's own user, so that `down` can remove it."""
        if platform.system() != "Linux":
            # Docker's machine shares directories too slowly and loosely for a database: there the data stays in Docker's volumes.
            return {}
        source = os.path.join(self.home, name)
        os.makedirs(source, exist_ok=True)
        # A rootless engine's root is the caller.
        user = "0:0" if "rootless" in _security_options() else "%d:%d" % (os.getuid(), os.getgid())
        # Compose takes "$" for a variable; "label=disable" lets the container see the directory under SELinux.
        return {"user": user, "security_opt": ["label=disable"],
                "volumes": [{"type": "bind", "source": source.replace("$", "$$"), "target": target}]}


def _security_options():
    done = subprocess.run(["docker", "info", "--format", "{{.SecurityOptions}}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    return done.stdout.decode(errors="replace")


# The entrypoint of the image would give the data to another user.
_REDIS = ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction", "--save", ""]


def _mongod(port, members):
    return {
        "entrypoint": ["mongod"],
        "command": ["--port", str(port), "--bind_ip_all", "--replSet", "rs0", "--oplogSize", "512",
                    "--wiredTigerCacheSizeGB", "1" if members == 1 else "0.5",
                    "--setParameter", "transactionLifetimeLimitSeconds=5"],
        "healthcheck": {"disable": True},
    }
