"""A PostgreSQL server of our own in a temporary folder: a socket file, no network."""

import glob
import importlib.util
import os
import pwd
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path


def find(program):
    """Debian's, or the one that the pgserver wheel brings; None where there is neither."""
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin is not None:
        places.append(str(Path(wheel.origin).parent / "pginstall/bin"))
    return shutil.which(program, path=os.pathsep.join(places)) or shutil.which(program)


def server_user():
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@contextmanager
def server(folder):
    """The address of a running server; it ends with the context."""
    user = server_user()
    data = Path(folder) / "data"
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "user": user, "cwd": folder}
    initdb, pg_ctl = find("initdb"), find("pg_ctl")
    options = ["-A", "trust", "-U", "robot", "--no-sync", "-E", "UTF8"]
    subprocess.run([initdb, "-D", str(data), *options], **quiet)
    settings = f"-c listen_addresses='' -k '{folder}' -c fsync=off -c shared_buffers=16MB"
    log = str(Path(folder) / "log")
    start = [pg_ctl, "-D", str(data), "-w", "-l", log, "-o", settings, "start"]
    subprocess.run(start, **quiet)
    try:
        yield f"postgresql://robot@/postgres?host={folder}"
    finally:
        subprocess.run([pg_ctl, "-D", str(data), "-m", "immediate", "stop"], **quiet)
