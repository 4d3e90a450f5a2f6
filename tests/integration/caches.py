"""Binary caches of a lab: the flake host serves a directory over HTTP, well or as caches fail. And small stores."""

from __future__ import annotations

import json

from tests.integration.fleet import until
from tests.lab import Lab

DIRECTORY = "/srv/cache"
SECRET_KEY = "/root/lab.secret"
UNIT = "lab-cache"
# by port: what each does with the directory
PORTS = {
    "well": 8081,
    "answers_500": 8082,
    "hangs": 8083,
    "hangs_in_the_middle": 8084,
    "has_lost_files": 8085,
    # nobody listens there
    "refuses": 8089,
}
SERVER = """
import http.server, json, socket, sys, threading, time
directory, ports = sys.argv[1], json.loads(sys.argv[2])
class Well(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def __init__(self, *args): super().__init__(*args, directory=directory)
class Answers500(Well):
    def do_GET(self): self.send_error(500)
class HasLostFiles(Well):
    def do_GET(self): self.send_error(404) if "/nar/" in self.path else super().do_GET()
class HangsInTheMiddle(Well):
    def do_GET(self):
        if "/nar/" not in self.path: return super().do_GET()
        with open(self.translate_path(self.path), "rb") as file: data = file.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data) // 2])
        time.sleep(3600)
kinds = (Well, Answers500, HangsInTheMiddle, HasLostFiles)
for name, kind in zip(("well", "answers_500", "hangs_in_the_middle", "has_lost_files"), kinds):
    server = http.server.ThreadingHTTPServer(("", ports[name]), kind)
    threading.Thread(target=server.serve_forever).start()
hangs = socket.create_server(("", ports["hangs"]))
open_ones = []
while True: open_ones.append(hangs.accept())
"""


def url(kind: str) -> str:
    return f"http://builder:{PORTS[kind]}"


def serve(lab: Lab) -> None:
    """Begin to serve, for as long as the builder is on and its firewall is not loaded anew."""
    lab.write("builder", "/srv/cache.py", SERVER)
    lab.run("builder", ["mkdir", "-p", DIRECTORY], check=True)
    ports = ",".join(str(port) for port in PORTS.values())
    lab.run("builder", ["nft", f"add rule inet nixos-fw input tcp dport {{ {ports} }} accept"], check=True)
    program = ["/run/current-system/sw/bin/python3", "/srv/cache.py", DIRECTORY, json.dumps(PORTS)]
    lab.run("builder", ["systemd-run", "--quiet", f"--unit={UNIT}", *program], check=True)
    listens = ["curl", "--silent", "--output", "/dev/null", url("well")]
    until(lambda: lab.run("builder", listens).returncode == 0, 10, "the cache listens")


def stop(lab: Lab) -> None:
    lab.run("builder", ["systemctl", "stop", UNIT], check=True)


def signing_key(lab: Lab) -> tuple[str, str]:
    """A key of the flake host: the path of its secret half, and its public half."""
    secret, public = SECRET_KEY, "/root/lab.public"
    if lab.read("builder", public) is None:
        generate = ["nix-store", "--generate-binary-cache-key", "lab-1", secret, public]
        lab.run("builder", generate, check=True)
    return secret, str(lab.read("builder", public)).strip()


def trust(lab: Lab, host: str, public: str | None, *more: str) -> None:
    """Let a host trust a key, or none any more; C(more) are further lines of its nix.conf."""
    lines = [f"trusted-public-keys = {public}"] if public else []
    lab.write(host, "/etc/nix/local.conf", "".join(f"{line}\n" for line in [*lines, *more]) or None)
    # the daemon has read the former one
    lab.run(host, ["systemctl", "try-restart", "nix-daemon.service"], check=True)


# A small file system above the store, as if the store were on one. Nix keeps its own names for what is there.
SMALL_STORE = """
set -e
mkdir -p /mnt/small
mount -t tmpfs -o {options} tmpfs /mnt/small
mkdir /mnt/small/upper /mnt/small/work /mnt/small/files
cd /mnt/small/files
for number in $(seq {files}); do head -c 4096 /dev/zero > $number; done
mount -t overlay -o lowerdir=/nix/store,upperdir=/mnt/small/upper,workdir=/mnt/small/work overlay /nix/store
systemctl try-restart nix-daemon.service
"""


def shrink_store(lab: Lab, host: str, options: str, files: int = 0) -> None:
    """Let a host have a small store, and so many C(files) of a block each beside it."""
    lab.run(host, ["sh", "-c", SMALL_STORE.format(options=options, files=files)], check=True)


def restore_store(lab: Lab, host: str) -> None:
    # the daemon and its children have files open there
    script = "systemctl stop nix-daemon.service; umount /nix/store; umount /mnt/small"
    lab.run(host, ["sh", "-c", script], check=True)


def store_names(lab: Lab, host: str) -> set[str]:
    return set(lab.run(host, ["ls", "-A", "/nix/store"], check=True).stdout.split())
