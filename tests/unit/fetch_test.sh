#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Downloads from a local HTTPS server that also misbehaves.
# Usage: bash tests/unit/fetch_test.sh BUILD_DIR
set -euo pipefail
build=${1:?usage: fetch_test.sh BUILD_DIR}
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 \
  -addext subjectAltName=IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null

/usr/bin/python3 - "$work" <<'EOF' &
import gzip, http.server, io, os, ssl, sys, tarfile, time

work = sys.argv[1]
one, two = gzip.compress(b"one\n"), gzip.compress(b"two\n")
files = {"/good/first.gz": one, "/good/second.gz": two, "/half/first.gz": one,
         "/wrong/first.gz": two, "/wrong/second.gz": one, "/cut/first.gz": one, "/slow/first.gz": one}


def archive(name, **members):
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for member, content in members.items():
                info = tarfile.TarInfo("inside/" + member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        data = out.getvalue()
    with open(f"{work}/{name}.tar.gz", "wb") as copy:
        copy.write(data)
    for place in "good", "cut", "slow":
        files[f"/{place}/{name}.tar.gz"] = data
    files[f"/wrong/{name}.tar.gz"] = data[:-1] + b"?"


archive("tiny", readme=b"more\n", first=b"one\n", second=b"two\n")
archive("partial", first=b"one\n")
archive("other", first=b"one\n", second=b"three\n")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(work + "/log", "a") as log:
            log.write(self.path + "\n")
        if self.path.startswith(("/moved/", "/to-http/")):
            scheme = "https" if self.path.startswith("/moved/") else "http"
            self.send_response(302)
            self.send_header("Location", f"{scheme}://{self.headers['Host']}/good/{self.path.split('/')[-1]}")
            self.end_headers()
            return
        body = files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path.startswith("/cut/"):
            body = body[:10]
        elif self.path.startswith("/slow/"):
            self.wfile.write(body[:1])
            self.wfile.flush()
            time.sleep(60)
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(work + "/cert.pem", work + "/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
open(work + "/log", "w").close()
with open(work + "/port.part", "w") as port:
    port.write(str(server.server_port))
os.rename(work + "/port.part", work + "/port")
server.serve_forever()
EOF
server=$!
for _ in $(seq 100); do [ -e "$work/port" ] && break; sleep 0.1; done
[ -e "$work/port" ] || { echo "fetch_test: the server did not start" >&2; exit 1; }

export no_proxy=127.0.0.1 CURL_CA_BUNDLE=$work/cert.pem
DSGD_TEST_SERVER=https://127.0.0.1:$(cat "$work/port") DSGD_TEST_LOG=$work/log DSGD_TEST_WORK=$work "$build/tests/fetch_test"
